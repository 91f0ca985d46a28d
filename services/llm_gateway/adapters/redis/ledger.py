"""The usage ledger: counters per hour, project and model in Redis.

Counts are gathered in memory and added in one round trip a moment later, so that
accounting costs a call nothing; an outage of Redis delays them.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from services.llm_gateway.adapters.redis.connection import answering
from services.llm_gateway.domain.calls import Usage
from services.llm_gateway.domain.records import UsageRow
from services.shared.clock import Clock
from services.shared.errors import Unavailable
from services.shared.lifecycle import wait_for_event

_FLUSH_SECONDS = 0.2
_SEPARATOR = "\x1f"
_KEEP = timedelta(days=90)

logger = structlog.stdlib.get_logger(__name__)


class RedisLedger:
    def __init__(self, *, client: Redis, clock: Clock) -> None:
        self._client = client
        self._clock = clock
        self._pending: defaultdict[tuple[str, str], int] = defaultdict(int)

    def record(self, *, project_id: str, model: str, usage: Usage) -> None:
        key = _hour_key(self._clock.now())
        prefix = f"{project_id}{_SEPARATOR}{model}{_SEPARATOR}"
        for name, value in (
            ("requests", 1),
            ("input", usage.input_tokens),
            ("output", usage.output_tokens),
            ("cached", usage.cached_input_tokens),
            ("calls", usage.provider_calls),
            ("estimated", int(usage.estimated)),
        ):
            if value:
                self._pending[key, prefix + name] += value

    async def rows(self, *, project_id: str, start: datetime, end: datetime) -> list[UsageRow]:
        hours: list[dict[bytes, bytes]] = []
        async with answering(), self._client.pipeline(transaction=False) as pipeline:
            for key in _hour_keys(start, end):
                pipeline.hgetall(key)
            hours = await pipeline.execute()
        totals: defaultdict[tuple[str, str], Counter[str]] = defaultdict(Counter)
        for hour in hours:
            for field, value in hour.items():
                project, model, name = field.decode().split(_SEPARATOR)
                if project_id in ("", project):
                    totals[project, model][name] += int(value)
        return [_row(project, model, counts) for (project, model), counts in sorted(totals.items())]

    async def run(self, stop: asyncio.Event) -> None:
        """Flushes until `stop`, then once more."""
        while not await wait_for_event(stop, _FLUSH_SECONDS):
            await self._flush()
        await self._flush()

    async def _flush(self) -> None:
        if not self._pending:
            return
        batch, self._pending = self._pending, defaultdict(int)
        try:
            async with answering(), self._client.pipeline(transaction=True) as pipeline:
                for (key, field), value in batch.items():
                    pipeline.hincrby(key, field, value)
                for key in {key for key, _ in batch}:
                    pipeline.expire(key, _KEEP)
                await pipeline.execute()
        except (Unavailable, RedisError):
            logger.warning("ledger_away", counters=len(batch))
            for field, value in batch.items():
                self._pending[field] += value


def _row(project_id: str, model: str, counts: Counter[str]) -> UsageRow:
    return UsageRow(
        project_id=project_id,
        model=model,
        requests=counts["requests"],
        usage=Usage(
            input_tokens=counts["input"],
            output_tokens=counts["output"],
            cached_input_tokens=counts["cached"],
            provider_calls=counts["calls"],
            estimated=counts["estimated"] > 0,
        ),
    )


def _hour_keys(start: datetime, end: datetime) -> Iterator[str]:
    """Of every hour that has a moment in [start, end)."""
    hour = start.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    while hour < end:
        yield _hour_key(hour)
        hour += timedelta(hours=1)


def _hour_key(moment: datetime) -> str:
    return f"scristill:llm:usage:{moment:%Y%m%d%H}"
