"""Random walks of commands: PostgreSQL and the pure state machine agree on every answer and every field."""

import asyncio
import os
from collections.abc import Coroutine
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from services.scheduler.domain.job import Progress
from tests.model.scheduler.pair import CHECKPOINT, POLICIES, Pair
from tests.model.scheduler.store import Store, open_store

LONG = os.environ.get("MODEL_CHECK") == "long"
_SETTINGS = settings(
    max_examples=2000 if LONG else 100,
    stateful_step_count=60 if LONG else 30,
    derandomize=not LONG,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)

MOST_JOBS = 5
positions = st.integers(0, MOST_JOBS - 1)
ages = st.sampled_from([0, 0, 0, 1])
seconds = st.sampled_from([0, 1, 5, 30]).map(lambda number: timedelta(seconds=number))
keys = st.sampled_from(["", "a"])


class Commands(RuleBasedStateMachine):
    """`store` and `loop` are set by the test, for all walks."""

    store: Store
    runner: asyncio.Runner

    @initialize(cap=st.integers(0, 2), rate=st.sampled_from([0.0, 1.0]))
    def start(self, cap: int, rate: float) -> None:
        self.pair = Pair(self.store)
        self._run(self.pair.start())
        self._run(self.pair.limit("a", cap=cap, rate=rate))
        self._run(self.pair.create())

    def _run(self, command: Coroutine[object, object, object]) -> None:
        self.runner.run(command)

    def _job(self, position: int) -> str:
        return list(self.pair.jobs)[position % len(self.pair.jobs)]

    def has_jobs(self) -> bool:
        return bool(self.pair.jobs)

    @precondition(lambda self: len(self.pair.jobs) < MOST_JOBS)
    @rule(delay=seconds, key=keys)
    def create(self, delay: timedelta, key: str) -> None:
        self._run(self.pair.create(delay=delay, key=key))

    @precondition(has_jobs)
    @rule(position=positions, age=ages)
    def create_child(self, position: int, age: int) -> None:
        self._run(self.pair.create(parent=self.pair.lease(self._job(position), age=age)))

    @precondition(has_jobs)
    @rule(chosen=st.lists(positions, min_size=1, max_size=3, unique=True), worker_id=st.sampled_from(["A", "B"]))
    def claim(self, chosen: list[int], worker_id: str) -> None:
        self._run(self.pair.claim(*{self._job(position): None for position in chosen}, worker_id=worker_id))

    @precondition(has_jobs)
    @rule(position=positions, age=ages, progress=st.booleans())
    def renew(self, position: int, age: int, progress: bool) -> None:  # noqa: FBT001 - drawn by name
        report = {"progress": Progress(completed_count=1, total_count=2), "checkpoint": CHECKPOINT} if progress else {}
        self._run(self.pair.renew(self.pair.lease(self._job(position), age=age), **report))

    @precondition(has_jobs)
    @rule(position=positions, age=ages)
    def complete(self, position: int, age: int) -> None:
        self._run(self.pair.complete(self.pair.lease(self._job(position), age=age)))

    @precondition(has_jobs)
    @rule(position=positions, age=ages, permanent=st.booleans(), delay=seconds, gate=seconds)
    def fail(self, position: int, age: int, permanent: bool, delay: timedelta, gate: timedelta) -> None:  # noqa: FBT001
        until = self.pair.now + gate if gate else None
        lease = self.pair.lease(self._job(position), age=age)
        self._run(self.pair.fail(lease, permanent=permanent, delay=delay, gate_until=until))

    @precondition(has_jobs)
    @rule(position=positions, age=ages, delay=seconds, checkpoint=st.sampled_from(["", CHECKPOINT]))
    def release(self, position: int, age: int, delay: timedelta, checkpoint: str) -> None:
        lease = self.pair.lease(self._job(position), age=age)
        self._run(self.pair.release(lease, delay=delay, checkpoint=checkpoint))

    @precondition(has_jobs)
    @rule(position=positions, age=ages, grace=seconds)
    def stream_ends(self, position: int, age: int, grace: timedelta) -> None:
        self._run(self.pair.expect_back(self.pair.lease(self._job(position), age=age), grace=grace))

    @precondition(has_jobs)
    @rule(position=positions)
    def cancel(self, position: int) -> None:
        self._run(self.pair.cancel(self._job(position)))

    @precondition(has_jobs)
    @rule(position=positions)
    def retry(self, position: int) -> None:
        self._run(self.pair.retry(self._job(position)))

    @precondition(has_jobs)
    @rule(position=positions)
    def delete(self, position: int) -> None:
        self._run(self.pair.delete(self._job(position)))

    @rule()
    def expire(self) -> None:
        self._run(self.pair.expire())

    @rule()
    def promote(self) -> None:
        self._run(self.pair.promote())

    @rule(paused=st.booleans())
    def pause(self, paused: bool) -> None:  # noqa: FBT001 - drawn by name
        self._run(self.pair.pause(paused=paused))

    @rule(step=st.sampled_from([1, 10, 61, 600, -5]))
    def time_passes(self, step: int) -> None:
        self._run(self.pair.pass_time(timedelta(seconds=step)))


@pytest.mark.timeout(3600 if LONG else 120)
def test_postgres_answers_every_walk_as_the_state_machine_does(scheduler_url: str) -> None:
    with asyncio.Runner() as runner:
        opened = open_store(scheduler_url, POLICIES)
        Commands.runner = runner
        Commands.store = runner.run(opened.__aenter__())
        try:
            run_state_machine_as_test(Commands, settings=_SETTINGS)
        finally:
            runner.run(opened.__aexit__(None, None, None))
