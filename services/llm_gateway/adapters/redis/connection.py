"""Opens Redis or Valkey, and says when it is away."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import OutOfMemoryError, ReadOnlyError, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from services.shared.checks import Check, CheckFailed
from services.shared.errors import ServiceError, Unavailable

DEPENDENCY = "redis"

_CONNECT_SECONDS = 5.0
_ANSWER_SECONDS = 5.0
_ONE_RETRY = 1
_AWAY = (RedisConnectionError, RedisTimeoutError, ReadOnlyError, OutOfMemoryError)


def connect(url: str) -> Redis:
    """A client whose commands wait for ever: run them within `answering()`, whose time-out costs no task per command.

    A broken connection is replaced once per command.
    """
    return Redis.from_url(  # pyright: ignore[reportUnknownMemberType]
        url,
        socket_connect_timeout=_CONNECT_SECONDS,
        socket_timeout=None,
        retry=Retry(NoBackoff(), _ONE_RETRY),
        health_check_interval=30,
    )


def classify(error: BaseException) -> ServiceError | None:
    """Redis is away, full, or a replica that takes no writes yet after a failover."""
    if isinstance(error, _AWAY):
        return Unavailable.of(DEPENDENCY)
    return None


@asynccontextmanager
async def answering(seconds: float = _ANSWER_SECONDS) -> AsyncGenerator[None]:
    """Bounds commands to Redis, and turns its outages into `Unavailable`."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise Unavailable.of(DEPENDENCY) from error
    except RedisError as error:
        known = classify(error)
        if known is None:
            raise
        raise known from error


def check(url: str) -> Check:
    async def run() -> None:
        client = connect(url)
        try:
            async with answering():
                await client.ping()  # pyright: ignore[reportUnknownMemberType, reportGeneralTypeIssues]
        except (RedisError, Unavailable) as error:
            raise CheckFailed("does not answer") from error
        finally:
            await client.aclose()

    return Check(name="redis", run=run)
