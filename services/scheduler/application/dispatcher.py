"""Brings ready jobs and hungry workers together.

Streams announce how many jobs their worker may hold; the ready index says which job is
next; the store decides, in one claim statement for many jobs of many workers. Nothing
here polls: the loop wakes when a job becomes ready, a worker gets room, or a page of the
backlog arrives. What this replica holds in memory can be lost at any time.
"""

import asyncio
from collections import Counter
from collections.abc import Collection, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta

from services.scheduler.application.lease_stream import LeaseStream
from services.scheduler.application.ports import (
    Assignment,
    Claimed,
    Created,
    HandOut,
    JobCreation,
    JobLeases,
    ReadyJobs,
    Settlement,
)
from services.scheduler.application.rounds import Failures
from services.scheduler.application.telemetry import SchedulerMetrics
from services.scheduler.domain.job import JobSpec, LeaseRef, Release
from services.scheduler.domain.limits import KeyShut
from services.scheduler.domain.policy import Policies
from services.scheduler.domain.ready_index import Entry, PageRequest, ReadyIndex
from services.shared.clock import Clock
from services.shared.errors import Unavailable
from services.shared.lifecycle import Drain

CLAIM_LIMIT = 500
HEAD_LIMIT = 1000

_CONCURRENT_CLAIMS = 2
# After a claim of several jobs the next one waits this long for more room, unless it is full already.
_SPACING_SECONDS = 0.004
_OPEN_WITHIN_SECONDS = 5.0


class Dispatcher:
    def __init__(
        self,
        *,
        leases: JobLeases,
        ready: ReadyJobs,
        index: ReadyIndex,
        policies: Policies,
        clock: Clock,
        metrics: SchedulerMetrics,
        drain: Drain,
        accept_timeout: timedelta,
        stream_grace: timedelta,
    ) -> None:
        self._leases = leases
        self._metrics = metrics
        self._drain = drain
        self._ready = ready
        self._index = index
        self._policies = policies
        self._clock = clock
        self._accept_timeout = accept_timeout
        self._stream_grace = stream_grace
        self._streams: dict[str, LeaseStream] = {}
        self._by_worker: dict[str, LeaseStream] = {}
        self._holders: dict[str, LeaseStream] = {}
        self._calls: Counter[str] = Counter()
        self._loaded: set[str] = set()
        self._paused: frozenset[str] = frozenset()
        self._missed = False
        self._following = asyncio.Event()
        self._wake = asyncio.Event()
        self._claims = asyncio.Semaphore(_CONCURRENT_CLAIMS)
        self._next_claim = 0.0
        self._failed_claims, self._failed_loads = Failures("claim"), Failures("load")
        self._failed_returns = Failures("give back")
        self._reopening: dict[str, asyncio.TimerHandle] = {}
        self._capped: set[str] = set()

    async def open(self, stream: LeaseStream) -> None:
        """A stream replaces an earlier one of the same worker, which delivers what it has and ends.

        Raises `Unavailable` while the change log is not followed yet: a lease given out before that would keep its
        worker's room for good if another replica settled it unnoticed.
        """
        try:
            async with asyncio.timeout(_OPEN_WITHIN_SECONDS):
                await self._following.wait()
        except TimeoutError as error:
            raise Unavailable("the scheduler cannot read its change log yet") from error
        earlier = self._by_worker.get(stream.worker_id)
        if earlier is not None:
            self._streams.pop(earlier.stream_id, None)
            earlier.replaced = True
            earlier.wake()
        self._by_worker[stream.worker_id] = stream
        self._streams[stream.stream_id] = stream
        self._holders.update(dict.fromkeys(stream.held, stream))
        self._wake.set()

    async def close(self, stream: LeaseStream, *, orderly: bool) -> None:
        """Ends a stream. Unless that was orderly, its worker may be gone, and must renew within the grace."""
        stream.closed = True
        self._streams.pop(stream.stream_id, None)
        if self._by_worker.get(stream.worker_id) is stream:
            del self._by_worker[stream.worker_id]
        for job_id in stream.held:
            if self._holders.get(job_id) is stream:
                del self._holders[job_id]
        undelivered = {job.lease for job in stream.collect()}
        if undelivered:
            await self._give_back(list(undelivered))
        held = [lease for lease in stream.held.values() if lease not in undelivered]
        if held and not orderly and not stream.replaced:
            await self._leases.expect_back(held, grace=self._stream_grace)

    def offer(self, entries: Sequence[Entry]) -> None:
        """Jobs that became ready, here or at another replica."""
        if entries:
            self._index.push(entries)
            self._wake.set()

    async def hand_out(self, specs: Sequence[JobSpec], creation: JobCreation) -> Created | None:
        """Creates jobs as leased to workers that wait for them: one commit on the way to the worker in place of two.

        None, and nothing was created, when any of them must queue up behind others or has no worker.
        """
        streams = self._waiting_for(specs)
        if streams is None:
            return None
        try:
            handed = await creation.create_leased(
                [
                    HandOut(
                        spec=spec,
                        worker_id=stream.worker_id,
                        total_deadline=self._policies.of(spec.type).total_deadline,
                    )
                    for spec, stream in zip(specs, streams, strict=True)
                ],
                accept_timeout=self._accept_timeout,
            )
        finally:
            for stream in streams:
                stream.claiming -= 1
            self._wake.set()
        await self._deliver(
            {spec.job_id: stream for spec, stream in zip(specs, streams, strict=True)}, Claimed(leased=handed.leased)
        )
        self.offer(handed.created.ready)
        return handed.created

    def _waiting_for(self, specs: Sequence[JobSpec]) -> list[LeaseStream] | None:
        """Reserves room at a worker for each job, where nothing that was there before has a claim to it."""
        same_twice = len({spec.job_id for spec in specs}) < len(specs)
        if same_twice or self._missed or self._drain.started:
            return None
        now = self._clock.monotonic()
        reserved: list[LeaseStream] = []
        for spec in specs:
            stream = self._waiting_worker(spec, now) if self._may_skip_the_queue(spec) else None
            if stream is None:
                for other in reserved:
                    other.claiming -= 1
                return None
            stream.claiming += 1
            reserved.append(stream)
        return reserved

    def _may_skip_the_queue(self, spec: JobSpec) -> bool:
        """Keys and times are judged when a job is claimed, and fairness when it is chosen among several."""
        return (
            not spec.limit_key
            and spec.schedule_time is None
            and spec.type in self._loaded
            and not self._index.has_waiting(spec.type)
        )

    def _waiting_worker(self, spec: JobSpec, now: float) -> LeaseStream | None:
        self._rotate()
        return next(
            (stream for stream in self._streams.values() if spec.type in stream.types and stream.room(now) > 0), None
        )

    def settled(self, settlement: Settlement) -> None:
        """Takes in what a batch of writes changed: room at workers, jobs that are ready again, keys."""
        self.returned(outcome.lease for outcome in settlement.outcomes)
        for shut in settlement.gates:
            self._shut(shut)
        for key in settlement.freed_keys & self._capped:
            self.open_key(key)
        self.offer(settlement.ready)

    def expired(self, settlement: Settlement) -> None:
        """Leases ran out. Their workers get no more until they are heard: a stopped process must not use up jobs."""
        self._doubt(outcome.lease for outcome in settlement.outcomes)
        self.settled(settlement)

    @contextmanager
    def call_of(self, worker_id: str) -> Generator[None]:
        """Answers a call of the worker, which is not silent while it waits for that."""
        self.heard(worker_id)
        self._calls[worker_id] += 1
        try:
            yield
        finally:
            self._calls[worker_id] -= 1
            if not self._calls[worker_id]:
                del self._calls[worker_id]

    def heard(self, worker_id: str) -> None:
        """A call of the worker arrived, so it is alive."""
        stream = self._by_worker.get(worker_id)
        if stream is not None and stream.trust():
            self._wake.set()

    def heard_by(self, lease: LeaseRef) -> None:
        """A call arrived that only the holder of this lease can make."""
        stream = self._holder(lease)
        if stream is not None:
            self.heard(stream.worker_id)

    def returned(self, leases: Iterable[LeaseRef]) -> None:
        """Leases that are over. One that was lost before says nothing about who holds the job now."""
        for lease in leases:
            stream = self._holder(lease)
            if stream is not None:
                del self._holders[lease.job_id], stream.held[lease.job_id]
                self._wake.set()

    def held(self, job_ids: Iterable[str]) -> list[LeaseRef]:
        """The leases that workers here hold on these jobs, as far as is known."""
        return [stream.held[job_id] for job_id in job_ids if (stream := self._holders.get(job_id)) is not None]

    def ran_out(self, leases: Collection[LeaseRef]) -> None:
        """Leases that another replica found to have run out, while their workers' streams are here."""
        self._doubt(leases)
        self.returned(leases)

    def _doubt(self, leases: Iterable[LeaseRef]) -> None:
        now = self._clock.monotonic()
        for lease in leases:
            stream = self._holder(lease)
            if stream is not None and stream.worker_id not in self._calls:
                stream.doubt(now)

    def _holder(self, lease: LeaseRef) -> LeaseStream | None:
        stream = self._holders.get(lease.job_id)
        return stream if stream is not None and stream.held.get(lease.job_id) == lease else None

    def steer(self, *, paused: frozenset[str], weights: dict[str, float]) -> None:
        self._index.set_weights(weights)
        for resumed in self._paused - paused:
            self._loaded.discard(resumed)
        self._paused = paused
        self._wake.set()

    def is_hungry(self) -> bool:
        """Whether a worker has room that the jobs in memory do not fill."""
        now = self._clock.monotonic()
        return any(
            stream.room(now) > 0 and not self._index.has_ready(stream.types) for stream in self._streams.values()
        )

    def note_missed(self) -> None:
        """Another replica made jobs ready that nobody here waits for; look for them when somebody does."""
        self._missed = True

    def follow(self) -> None:
        """From now on `returned` and `offer` are told what other replicas do."""
        self._following.set()
        self.rescan()

    def rescan(self) -> None:
        """Reads the heads of all backlogs again, for jobs that no event told this replica about."""
        self._loaded.clear()
        self._wake.set()

    def open_key(self, limit_key: str) -> None:
        """Offers the jobs of a key again; the next claim finds out whether it is really open."""
        self._capped.discard(limit_key)
        timer = self._reopening.pop(limit_key, None)
        if timer is not None:
            timer.cancel()
        if self._index.open(limit_key):
            self._wake.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Dispatches until the drain starts; after that streams only deliver what they have."""
        async with asyncio.TaskGroup() as tasks:
            draining = tasks.create_task(self._wake_for_drain(), name="dispatcher-drain")
            while not self._drain.started and not stop.is_set():
                await self._wake.wait()
                self._wake.clear()
                await self._load()
                await self._dispatch(tasks)
            draining.cancel()
        await stop.wait()

    async def _wake_for_drain(self) -> None:
        await self._drain.wait()
        self._wake.set()
        for stream in self._streams.values():
            stream.wake()

    async def _dispatch(self, tasks: asyncio.TaskGroup) -> None:
        while not self._drain.started:
            await self._claims.acquire()
            await self._space()
            assignments = self._assign()
            if not assignments:
                self._claims.release()
                return
            if len(assignments) > 1:
                self._next_claim = self._clock.monotonic() + _SPACING_SECONDS
            tasks.create_task(self._claim(assignments), name="claim")

    async def _space(self) -> None:
        """A claim and its commit cost what dozens of jobs in it cost. Nobody waits when jobs come one by one."""
        now = self._clock.monotonic()
        if now < self._next_claim and sum(max(0, stream.room(now)) for stream in self._streams.values()) < CLAIM_LIMIT:
            await asyncio.sleep(self._next_claim - now)

    def _assign(self) -> list[tuple[LeaseStream, Entry]]:
        """Proposes the next jobs to streams with room, in turns, so that few jobs spread over many workers."""
        now = self._clock.monotonic()
        hungry = [stream for stream in self._streams.values() if stream.room(now) > 0]
        assigned: list[tuple[LeaseStream, Entry]] = []
        while hungry and len(assigned) < CLAIM_LIMIT:
            share = max(1, min(CLAIM_LIMIT - len(assigned), len(self._index)) // len(hungry))
            for stream in list(hungry):
                types = [name for name in stream.types if name not in self._paused]
                entries = self._index.take(types, min(share, stream.room(now), CLAIM_LIMIT - len(assigned)))
                stream.claiming += len(entries)
                assigned += [(stream, entry) for entry in entries]
                if not entries or stream.room(now) <= 0:
                    hungry.remove(stream)
        self._rotate()
        return assigned

    def _rotate(self) -> None:
        """The stream that was asked first is asked last next time."""
        if self._streams:
            first = next(iter(self._streams))
            self._streams[first] = self._streams.pop(first)

    async def _claim(self, assigned: list[tuple[LeaseStream, Entry]]) -> None:
        started = self._clock.monotonic()
        try:
            claimed = await self._leases.claim(
                [
                    Assignment(
                        entry=entry,
                        worker_id=stream.worker_id,
                        total_deadline=self._policies.of(entry.type).total_deadline,
                    )
                    for stream, entry in assigned
                ],
                accept_timeout=self._accept_timeout,
            )
        except Exception as error:  # noqa: BLE001 - what was not claimed is proposed again, whatever the reason
            await asyncio.sleep(self._failed_claims.add(error))
            self._index.push(entry for _, entry in assigned)
            claimed = Claimed(leased=())
        else:
            self._failed_claims.end()
        finally:
            self._claims.release()
            for stream, _ in assigned:
                stream.claiming -= 1
        self._metrics.claim_seconds.observe(self._clock.monotonic() - started)
        self._metrics.claim_batch.observe(len(claimed.leased))
        self._metrics.in_memory.set(len(self._index))
        await self._deliver({entry.job_id: stream for stream, entry in assigned}, claimed)

    async def _deliver(self, streams: Mapping[str, LeaseStream], claimed: Claimed) -> None:
        orphans: list[LeaseRef] = []
        for job in claimed.leased:
            stream = streams[job.lease.job_id]
            if stream.closed or stream.replaced:
                orphans.append(job.lease)
            else:
                self._holders[job.lease.job_id] = stream
                stream.deliver(job)
        for shut in claimed.shut:
            self._shut(shut)
        self._index.push(claimed.refused)
        self._wake.set()
        if orphans:
            await self._give_back(orphans)

    async def _give_back(self, leases: Sequence[LeaseRef]) -> None:
        """Jobs that no worker has seen cost no attempt. If this fails, their leases run out."""
        try:
            settlement = await self._leases.release(
                [Release(lease=lease, delay=timedelta(), checkpoint="") for lease in leases]
            )
        except Exception as error:  # noqa: BLE001 - their leases run out instead
            self._failed_returns.add(error)
        else:
            self._failed_returns.end()
            self.settled(settlement)

    async def _load(self) -> None:
        """Fetches what memory lacks: heads of types that a stream is the first to ask for, pages running low."""
        if self._missed and self.is_hungry():
            self._missed = False
            self._loaded.clear()
        types = {name for stream in self._streams.values() for name in stream.types} - self._paused
        try:
            unknown = sorted(types - self._loaded)
            if unknown:
                self._loaded.update(unknown)
                await self._load_heads(unknown)
            for request in list(self._index.page_requests(types)):
                await self._load_page(request)
        except Exception as error:  # noqa: BLE001 - what was not loaded is asked for again, whatever the reason
            self._loaded.clear()
            await asyncio.sleep(self._failed_loads.add(error))
            self._wake.set()
        else:
            self._failed_loads.end()

    async def _load_heads(self, types: Sequence[str]) -> None:
        heads = await self._ready.heads(types, limit=HEAD_LIMIT)
        for (job_type, project_id), entries in heads.items():
            self._index.add_heads(job_type, project_id, entries, whole=len(entries) < HEAD_LIMIT)

    async def _load_page(self, request: PageRequest) -> None:
        try:
            entries = await self._ready.page(request)
        except BaseException:
            self._index.page_failed(request)
            raise
        self._index.add_page(request, entries)

    def _shut(self, shut: KeyShut) -> None:
        """Sets jobs of a key aside until it opens by time, or by the end of a job if it is at its cap."""
        self._index.shut(shut.limit_key)
        timer = self._reopening.pop(shut.limit_key, None)
        if timer is not None:
            timer.cancel()
        if shut.or_freed:
            self._capped.add(shut.limit_key)
        else:
            self._capped.discard(shut.limit_key)
        delay = max(0.0, (shut.until - self._clock.now()).total_seconds())
        loop = asyncio.get_running_loop()
        self._reopening[shut.limit_key] = loop.call_later(delay, self.open_key, shut.limit_key)
