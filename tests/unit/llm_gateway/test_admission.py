import asyncio
from contextlib import AsyncExitStack
from datetime import timedelta

import pytest

from services.llm_gateway.adapters.limits import FixedLimit
from services.llm_gateway.adapters.metrics import CallMetrics
from services.llm_gateway.adapters.wordllama import MODEL
from services.llm_gateway.application.admission import Admission, QueueLimits, Ticket
from services.llm_gateway.domain.frames import Queued
from services.shared.clock import SystemClock
from services.shared.errors import DeadlineUnreachable, ResourceExhausted
from services.shared.telemetry.metrics import Metrics


class Desk:
    """An admission with `limit` slots, and what waiting callers were told."""

    def __init__(self, *, limit: int = 1, total: int = 100, per_project: int = 100) -> None:
        self.clock = SystemClock()
        self.admission = Admission(
            limit=FixedLimit(limit),
            queue_limits=QueueLimits(total=total, per_project=per_project),
            weight=lambda _: 1.0,
            observer=CallMetrics(Metrics()).of(MODEL),
            clock=self.clock,
        )
        self.told: list[Queued] = []
        self.order: list[str] = []

    def ticket(self, project: str = "p", *, deadline_in: float | None = None, again: bool = False) -> Ticket:
        deadline = None if deadline_in is None else self.clock.monotonic() + deadline_in
        return Ticket(project_id=project, priority=0, cost=1, deadline=deadline, again=again)

    def slot(self, ticket: Ticket | None = None):
        return self.admission.slot(ticket or self.ticket(), on_queued=self.told.append)

    async def visit(self, project: str, *, again: bool = False) -> None:
        async with self.slot(self.ticket(project, again=again)):
            self.order.append(project)


async def test_free_slot_is_given_without_a_word() -> None:
    desk = Desk(limit=2)

    async with desk.slot(), desk.slot():
        assert desk.admission.in_flight == 2

    assert desk.told == []
    assert desk.admission.in_flight == 0


async def test_never_more_run_than_the_limit_allows() -> None:
    desk = Desk(limit=3)
    most = 0

    async def call() -> None:
        nonlocal most
        async with desk.slot():
            most = max(most, desk.admission.in_flight)
            await asyncio.sleep(0)

    await asyncio.gather(*(call() for _ in range(50)))

    assert most == 3
    assert desk.admission.in_flight == desk.admission.waiting == 0


async def test_caller_that_waits_is_told_its_place() -> None:
    desk = Desk()
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(desk.slot())
        waiting = [asyncio.create_task(desk.visit("p")) for _ in range(2)]
        await asyncio.sleep(0)
        assert [frame.position for frame in desk.told] == [0, 1]
    await asyncio.gather(*waiting)


async def test_projects_take_turns_and_a_retry_goes_first_within_its_own() -> None:
    desk = Desk()
    async with desk.slot():
        visits = [asyncio.create_task(desk.visit(project)) for project in ("a", "a", "a", "b")]
        await asyncio.sleep(0)
    await asyncio.gather(*visits)

    assert desk.order.index("b") <= 1


async def test_full_queue_refuses_with_the_scope_of_the_limit() -> None:
    desk = Desk(total=2, per_project=1)
    async with desk.slot():
        first = asyncio.create_task(desk.visit("a"))
        await asyncio.sleep(0)
        with pytest.raises(ResourceExhausted) as own:
            await desk.visit("a")
        second = asyncio.create_task(desk.visit("b"))
        await asyncio.sleep(0)
        with pytest.raises(ResourceExhausted) as all_together:
            await desk.visit("c")
    await asyncio.gather(first, second)

    assert own.value.metadata["scope"] == "project"
    assert all_together.value.metadata["scope"] == "server"
    assert all_together.value.retry_delay is not None


async def test_full_queue_still_takes_a_retry() -> None:
    desk = Desk(total=0)
    async with desk.slot():
        retry = asyncio.create_task(desk.visit("a", again=True))
        await asyncio.sleep(0)
        assert not retry.done()
    await retry


async def test_wait_beyond_the_deadline_is_refused_at_once() -> None:
    desk = Desk()
    async with desk.slot():
        await asyncio.sleep(0.05)  # how long a call takes, as the desk learns now
    async with desk.slot():
        with pytest.raises(DeadlineUnreachable) as raised:
            async with desk.slot(desk.ticket(deadline_in=0.01)):
                raise AssertionError
        patient = asyncio.create_task(desk.visit("p"))
        await asyncio.sleep(0)
        assert not patient.done()
    await patient

    assert int(raised.value.metadata["predicted_wait_ms"]) >= 50


async def test_cancelled_waiter_gives_its_place_back() -> None:
    desk = Desk()
    async with desk.slot():
        gone = asyncio.create_task(desk.visit("gone"))
        stays = asyncio.create_task(desk.visit("stays"))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        assert desk.admission.waiting == 1
    await stays

    assert desk.order == ["stays"]


async def test_waiter_cancelled_in_the_moment_of_its_turn_passes_the_slot_on() -> None:
    desk = Desk()
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(desk.slot())
        gone = asyncio.create_task(desk.visit("gone"))
        stays = asyncio.create_task(desk.visit("stays"))
        await asyncio.sleep(0)
    gone.cancel()
    await asyncio.wait_for(stays, 1)

    assert desk.order == ["stays"]
    assert desk.admission.in_flight == 0


async def test_shut_gate_holds_everybody_back_until_it_opens_by_itself() -> None:
    desk = Desk(limit=5)
    desk.admission.shut_gate(timedelta(seconds=0.2))
    desk.admission.shut_gate(timedelta(seconds=0.1))
    before = desk.admission.gate_seconds

    await asyncio.gather(desk.visit("a"), desk.visit("b"))

    assert before > 0.1
    assert desk.admission.gate_seconds == 0
    assert len(desk.told) == 2
