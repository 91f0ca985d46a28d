"""Opens Redis or Valkey, and says when it is away."""

from collections.abc import Generator
from contextlib import contextmanager

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ReadOnlyError, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from services.shared.checks import Check, CheckFailed
from services.shared.errors import ServiceError, Unavailable

DEPENDENCY = "redis"

_CONNECT_SECONDS = 5.0
_ANSWER_SECONDS = 5.0
_ONE_RETRY = 1


def connect(url: str, *, answer_seconds: float | None = _ANSWER_SECONDS) -> Redis:
    """A client whose every command ends within `answer_seconds`. A broken connection is replaced once per command."""
    return Redis.from_url(  # pyright: ignore[reportUnknownMemberType]
        url,
        socket_connect_timeout=_CONNECT_SECONDS,
        socket_timeout=answer_seconds,
        retry=Retry(NoBackoff(), _ONE_RETRY),
        health_check_interval=30,
    )


def classify(error: BaseException) -> ServiceError | None:
    """Redis is away, or a replica that takes no writes yet after a failover."""
    if isinstance(error, RedisConnectionError | RedisTimeoutError | ReadOnlyError):
        return Unavailable.of(DEPENDENCY)
    return None


@contextmanager
def outages() -> Generator[None]:
    """Turns an outage inside the block into `Unavailable`."""
    try:
        yield
    except RedisError as error:
        known = classify(error)
        if known is None:
            raise
        raise known from error


def check(url: str) -> Check:
    async def run() -> None:
        client = connect(url)
        try:
            await client.ping()  # pyright: ignore[reportUnknownMemberType, reportGeneralTypeIssues]
        except RedisError as error:
            raise CheckFailed("does not answer") from error
        finally:
            await client.aclose()

    return Check(name="redis", run=run)
