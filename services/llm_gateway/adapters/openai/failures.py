"""What a failed HTTP call means: whether asking again can help, and not before when."""

from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from http import HTTPStatus

from services.llm_gateway.domain.errors import ProviderError, ProviderFailure, ProviderRejection

_OVERLOADED = 529
_RETRYABLE = frozenset(
    {
        HTTPStatus.REQUEST_TIMEOUT,
        HTTPStatus.CONFLICT,
        HTTPStatus.TOO_EARLY,
        HTTPStatus.TOO_MANY_REQUESTS,
    }
)
_THROTTLING = frozenset({HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE, _OVERLOADED})
_LONGEST_GATE = timedelta(hours=1)

# A used-up quota answers 429 too, but waiting does not bring it back.
_HOPELESS_CODES = frozenset({"insufficient_quota", "billing_hard_limit_reached"})


def of_status(status: int, *, retry_after: str | None, code: str, now: datetime) -> ProviderError:
    """`code` is the machine-readable reason in the body, empty if there is none."""
    explanation = f"HTTP {status}" + (f" ({code})" if code else "")
    retryable = status in _RETRYABLE or status >= HTTPStatus.INTERNAL_SERVER_ERROR
    if not retryable or code in _HOPELESS_CODES:
        return ProviderRejection(explanation, status=status)
    return ProviderFailure(
        explanation,
        status=status,
        retry_after=parse_retry_after(retry_after, now=now),
        throttled=status in _THROTTLING,
    )


def parse_retry_after(value: str | None, *, now: datetime) -> timedelta | None:
    """Both forms of the header, seconds and a date; None for what cannot be read. Capped at an hour."""
    if not value:
        return None
    try:
        delay = timedelta(seconds=float(value))
    except (ValueError, OverflowError):
        try:
            moment = parsedate_to_datetime(value)
        except ValueError:
            return None
        delay = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - now
    return min(max(delay, timedelta()), _LONGEST_GATE)
