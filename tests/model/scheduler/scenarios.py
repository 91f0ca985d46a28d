"""Short walks, each of which leans on one guard of the SQL: without it, PostgreSQL and the state machine part ways."""

import uuid
from collections.abc import Awaitable, Callable
from datetime import timedelta

from services.scheduler.domain.job import LeaseRef, Progress
from tests.model.scheduler.pair import CHECKPOINT, Pair

SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)

Scenario = Callable[[Pair], Awaitable[None]]


async def _leased(pair: Pair, **fields: object) -> tuple[str, LeaseRef]:
    job_id = await pair.create(**fields)
    await pair.claim(job_id)
    return job_id, pair.lease(job_id)


async def _re_leased(pair: Pair) -> tuple[str, LeaseRef]:
    """A lease that was lost: the job is with another worker now."""
    job_id, stale = await _leased(pair)
    await pair.pass_time(MINUTE)
    await pair.expire()
    await pair.claim(job_id, worker_id="other")
    return job_id, stale


async def stale_complete(pair: Pair) -> None:
    _, stale = await _re_leased(pair)
    await pair.complete(stale)


async def stale_complete_with_children(pair: Pair) -> None:
    _, stale = await _re_leased(pair)
    await pair.complete(stale, children=[str(uuid.uuid4())])


async def stale_fail(pair: Pair) -> None:
    _, stale = await _re_leased(pair)
    await pair.fail(stale, permanent=True)


async def stale_release(pair: Pair) -> None:
    _, stale = await _re_leased(pair)
    await pair.release(stale, checkpoint=CHECKPOINT)


async def stale_renew(pair: Pair) -> None:
    _, stale = await _re_leased(pair)
    await pair.renew(stale, progress=Progress(completed_count=1), checkpoint=CHECKPOINT)


async def stale_stream_end(pair: Pair) -> None:
    _, stale = await _re_leased(pair)
    await pair.expect_back(stale, grace=SECOND)


async def stale_child(pair: Pair) -> None:
    _, stale = await _re_leased(pair)
    await pair.create(parent=stale)


async def write_after_release(pair: Pair) -> None:
    """The token is still the last one, but nobody holds the job."""
    _, lease = await _leased(pair)
    await pair.release(lease)
    await pair.complete(lease)


async def fail_after_release(pair: Pair) -> None:
    _, lease = await _leased(pair)
    await pair.release(lease)
    await pair.fail(lease, permanent=True)


async def release_after_fail(pair: Pair) -> None:
    _, lease = await _leased(pair)
    await pair.fail(lease)
    await pair.release(lease)


async def renew_after_release(pair: Pair) -> None:
    _, lease = await _leased(pair)
    await pair.release(lease)
    await pair.renew(lease)


async def stream_end_after_release(pair: Pair) -> None:
    _, lease = await _leased(pair)
    await pair.release(lease)
    await pair.expect_back(lease, grace=SECOND)


async def stream_end_with_a_long_grace(pair: Pair) -> None:
    _, lease = await _leased(pair)
    await pair.expect_back(lease, grace=MINUTE)
    await pair.expect_back(lease, grace=SECOND)


async def child_after_release(pair: Pair) -> None:
    _, lease = await _leased(pair)
    await pair.release(lease)
    await pair.create(parent=lease)


async def repeated_writes(pair: Pair) -> None:
    for write in (pair.complete, pair.fail, pair.release):
        _, lease = await _leased(pair)
        await write(lease)
        await write(lease)


async def other_write_after_the_first(pair: Pair) -> None:
    _, lease = await _leased(pair)
    await pair.complete(lease)
    await pair.fail(lease)


async def claim_of_a_running_job(pair: Pair) -> None:
    job_id, _ = await _leased(pair)
    await pair.claim(job_id, worker_id="other")


async def claim_before_its_time(pair: Pair) -> None:
    job_id = await pair.create(delay=MINUTE)
    await pair.claim(job_id)


async def claim_while_paused(pair: Pair) -> None:
    job_id = await pair.create()
    await pair.pause(paused=True)
    await pair.claim(job_id)


async def expiry_of_a_good_lease(pair: Pair) -> None:
    await _leased(pair)
    await pair.pass_time(10 * SECOND)
    await pair.expire()
    await pair.pass_time(SECOND)
    await pair.expire()


async def renewed_lease_is_kept(pair: Pair) -> None:
    _, lease = await _leased(pair)
    await pair.renew(lease)
    await pair.pass_time(MINUTE)
    await pair.expire()


async def renewal_near_the_deadline(pair: Pair) -> None:
    _, lease = await _leased(pair)
    await pair.pass_time(590 * SECOND)
    await pair.renew(lease)


async def stalls_are_spent(pair: Pair) -> None:
    job_id = await pair.create()
    for _ in range(2):
        await pair.claim(job_id)
        await pair.pass_time(MINUTE)
        await pair.expire()


async def attempts_are_spent(pair: Pair) -> None:
    job_id = await pair.create()
    for _ in range(2):
        await pair.claim(job_id)
        await pair.fail(pair.lease(job_id), delay=SECOND)
        await pair.pass_time(MINUTE)


async def deadline_passes(pair: Pair) -> None:
    await _leased(pair)
    await pair.pass_time(600 * SECOND)
    await pair.expire()


async def retry_after_the_deadline(pair: Pair) -> None:
    _, lease = await _leased(pair)
    await pair.fail(lease, delay=600 * SECOND)


async def cancel_of_a_waiting_job(pair: Pair) -> None:
    await pair.cancel(await pair.create())


async def cancel_of_a_running_job(pair: Pair) -> None:
    for write in (pair.fail, pair.release):
        job_id, lease = await _leased(pair)
        await pair.cancel(job_id)
        await pair.renew(lease)
        await write(lease)
    job_id, _ = await _leased(pair)
    await pair.cancel(job_id)
    await pair.pass_time(MINUTE)
    await pair.expire()


async def cancel_twice(pair: Pair) -> None:
    job_id, _ = await _leased(pair)
    await pair.cancel(job_id)
    await pair.pass_time(SECOND)
    await pair.cancel(job_id)


async def cancel_of_a_family(pair: Pair) -> None:
    job_id, lease = await _leased(pair)
    child = await pair.create(parent=lease)
    await pair.claim(child)
    await pair.create(parent=pair.lease(child))
    await pair.complete(pair.lease(child))
    await pair.cancel(job_id)
    await pair.create(parent=lease)
    await pair.complete(lease, children=[str(uuid.uuid4())])


async def retry_of_ended_jobs(pair: Pair) -> None:
    succeeded, lease = await _leased(pair)
    await pair.complete(lease)
    await pair.retry(succeeded)
    failed, lease = await _leased(pair)
    await pair.fail(lease, permanent=True)
    request_id = str(uuid.uuid4())
    await pair.retry(failed, request_id=request_id)
    await pair.retry(failed, request_id=request_id)
    await pair.retry(failed, request_id=str(uuid.uuid4()))
    await pair.claim(failed)
    await pair.complete(lease)


async def deletion(pair: Pair) -> None:
    job_id, lease = await _leased(pair)
    await pair.delete(job_id)
    await pair.complete(lease)
    await pair.delete(job_id)


async def creation_of_an_ended_job(pair: Pair) -> None:
    job_id, lease = await _leased(pair)
    await pair.create(job_id=job_id)
    await pair.complete(lease)
    await pair.create(job_id=job_id)


async def hand_out_of_a_new_job(pair: Pair) -> None:
    job_id = await pair.hand_out()
    await pair.claim(job_id)
    await pair.complete(pair.lease(job_id))


async def hand_out_of_a_known_job(pair: Pair) -> None:
    waiting = await pair.create()
    await pair.hand_out(waiting)
    await pair.claim(waiting)
    await pair.hand_out(waiting, worker_id="other")
    await pair.complete(pair.lease(waiting))
    await pair.hand_out(waiting)


async def hand_out_of_a_chosen_job(pair: Pair) -> None:
    await pair.hand_out(str(uuid.uuid4()))
    await pair.expire()
    await pair.pass_time(11 * SECOND)
    await pair.expire()


async def hand_out_while_paused(pair: Pair) -> None:
    await pair.pause(paused=True)
    await pair.hand_out()
    await pair.hand_out(str(uuid.uuid4()))


async def cap(pair: Pair) -> None:
    await pair.limit("k", cap=1)
    first, second = await pair.create(key="k"), await pair.create(key="k")
    await pair.claim(first, second)
    await pair.claim(second)
    await pair.release(pair.lease(first))
    await pair.claim(second)


async def rate(pair: Pair) -> None:
    await pair.limit("k", rate=1.0)
    first, second = await pair.create(key="k"), await pair.create(key="k")
    await pair.claim(first)
    await pair.claim(second)
    await pair.pass_time(SECOND)
    await pair.claim(second)


async def gate(pair: Pair) -> None:
    job_id, lease = await _leased(pair, key="k")
    await pair.fail(lease, delay=SECOND, gate_until=pair.now + MINUTE)
    await pair.pass_time(30 * SECOND)
    await pair.claim(job_id)
    await pair.pass_time(MINUTE)
    await pair.claim(job_id)


async def stale_gate(pair: Pair) -> None:
    job_id, stale = await _leased(pair, key="k")
    await pair.pass_time(MINUTE)
    await pair.expire()
    await pair.fail(stale, gate_until=pair.now + MINUTE)
    await pair.claim(job_id)


async def shorter_gate(pair: Pair) -> None:
    first, lease = await _leased(pair, key="k")
    second, other = await _leased(pair, key="k")
    await pair.fail(lease, delay=SECOND, gate_until=pair.now + MINUTE)
    await pair.fail(other, delay=SECOND, gate_until=pair.now + 5 * SECOND)
    await pair.pass_time(30 * SECOND)
    await pair.claim(first, second)


async def delayed_job_becomes_ready(pair: Pair) -> None:
    job_id = await pair.create(delay=MINUTE)
    await pair.promote()
    await pair.pass_time(2 * MINUTE)
    await pair.promote()
    await pair.claim(job_id)
    await pair.promote()
    await pair.fail(pair.lease(job_id), delay=SECOND)
    await pair.promote()
    await pair.pass_time(SECOND)
    await pair.promote()


SCENARIOS: dict[str, Scenario] = {
    name: value
    for name, value in dict(globals()).items()
    if callable(value) and getattr(value, "__module__", "") == __name__ and not name.startswith("_")
}
