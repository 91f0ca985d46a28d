"""Breadth-first exploration of every order of events, up to a depth."""

from collections import deque
from collections.abc import Iterator

from tests.unit.scheduler import model
from tests.unit.scheduler.model import World

WORKERS = ("a", "b")
WRITES = ("renew", "complete", "fail", "fail for good", "release")


def successors(world: World, *, retries: bool = True) -> Iterator[tuple[str, World]]:
    """Each event that may happen next: leases, writes with any lease ever given, expiry, cancel, retry, a clock step.

    A crash or a stall is a worker that does nothing while the clock steps on; its late
    writes come from the leases that it still remembers.
    """
    for index in range(len(world.jobs)):
        for worker in WORKERS:
            yield f"{worker} leases {index}", model.lease(world, index, worker)
        for worker, token in sorted(world.grants[index]):
            for how in WRITES:
                yield f"{worker} {how} {index}@{token}", model.write(world, index, worker, token, how)
        yield f"expire {index}", model.expire(world, index)
        yield f"cancel {index}", model.cancel(world, index)
        if retries:
            yield f"retry {index}", model.retry(world, index)
    yield "clock", model.step_clock(world, 2)


def explore(*, jobs: int, depth: int) -> int:
    """Visits every world within `depth` events. Returns how many; raises at the first bad one."""
    first = model.start(jobs)
    seen = {first.key()}
    queue = deque([(first, 0)])
    while queue:
        world, steps = queue.popleft()
        if steps == depth:
            continue
        for _, after in successors(world):
            if after.key() not in seen:
                model.check(after)
                seen.add(after.key())
                queue.append((after, steps + 1))
    return len(seen)
