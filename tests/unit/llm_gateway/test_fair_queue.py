from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.llm_gateway.domain.fair_queue import FairQueue


def queue_of(*weights: tuple[str, float]) -> FairQueue[str]:
    table = dict(weights)
    return FairQueue(weight=lambda project: table.get(project, 1.0))


def test_project_that_sends_many_waits_for_itself_not_the_others_for_it() -> None:
    queue = queue_of()
    for number in range(100):
        queue.push(f"big-{number}", project="big", priority=0, cost=1)
    queue.push("small-0", project="small", priority=0, cost=1)
    queue.push("small-1", project="small", priority=0, cost=1)

    served = [queue.pop() for _ in range(5)]

    assert {"small-0", "small-1"} <= set(served)


def test_shares_follow_the_weights() -> None:
    queue = queue_of(("heavy", 3.0))
    for number in range(100):
        queue.push(f"heavy-{number}", project="heavy", priority=0, cost=1)
        queue.push(f"light-{number}", project="light", priority=0, cost=1)

    served = Counter(queue.pop().partition("-")[0] for _ in range(80))

    assert served == {"heavy": 60, "light": 20}


def test_costly_requests_use_up_a_share_faster() -> None:
    queue = queue_of()
    for number in range(40):
        queue.push(f"long-{number}", project="long", priority=0, cost=4)
        queue.push(f"short-{number}", project="short", priority=0, cost=1)

    served = Counter(queue.pop().partition("-")[0] for _ in range(40))

    assert served["short"] == 4 * served["long"]


def test_priority_orders_within_a_project_and_arrival_within_a_priority() -> None:
    queue = queue_of()
    for name, priority in (("later", 5), ("urgent", 0), ("later too", 5), ("again", -1)):
        queue.push(name, project="p", priority=priority, cost=1)

    assert [queue.pop() for _ in range(4)] == ["again", "urgent", "later", "later too"]


def test_project_that_was_idle_gets_no_credit_for_it() -> None:
    queue = queue_of()
    for number in range(50):
        queue.push(f"busy-{number}", project="busy", priority=0, cost=1)
    for _ in range(40):
        queue.pop()
    for number in range(10):
        queue.push(f"idle-{number}", project="idle", priority=0, cost=1)

    served = Counter(queue.pop().partition("-")[0] for _ in range(10))

    assert abs(served["busy"] - served["idle"]) <= 1


def test_empty_queue_has_nothing_to_give() -> None:
    queue = queue_of()
    queue.push("a", project="p", priority=0, cost=1)
    queue.discard("a")
    queue.discard("never there")

    assert len(queue) == 0
    with pytest.raises(IndexError):
        queue.pop()


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.integers(0, 9), st.floats(0.1, 50), st.booleans()), min_size=1, max_size=60
    )
)
def test_every_item_comes_out_once_unless_it_was_taken_out(steps: list[tuple[str, int, float, bool]]) -> None:
    queue: FairQueue[int] = FairQueue(weight=lambda _: 1.0)
    kept = set()
    for number, (project, priority, cost, taken_out) in enumerate(steps):
        queue.push(number, project=project, priority=priority, cost=cost)
        kept.add(number)
        if taken_out:
            queue.discard(number)
            kept.discard(number)
    assert len(queue) == len(kept) == sum(queue.waiting_of(project) for project in "abc")

    assert {queue.pop() for _ in range(len(queue))} == kept
    assert len(queue) == 0
