"""What a failed call looks like from outside: a status with details, never the text of an exception.

Two interceptors share the work. `FaultInterceptor`, innermost, turns whatever a handler
raises into a `ServiceError` while the trace of the call is still current, and logs the
traceback of what nobody expected under an incident id. `StatusInterceptor`, outermost,
puts the `ServiceError` on the wire.
"""

import asyncio
import uuid
from collections.abc import Callable
from typing import cast

import grpc.aio
import structlog

from services.shared.errors import InternalFault, ServiceError
from services.shared.grpc import errors
from services.shared.grpc.interceptors.base import Interceptor, Proceed, Rpc

logger = structlog.stdlib.get_logger(__name__)

Classifier = Callable[[BaseException], ServiceError | None]
"""Recognises failures of stores and peers; None for what it does not know."""


def first_known(*classifiers: Classifier) -> Classifier:
    """Asks the classifiers in turn."""

    def classify(error: BaseException) -> ServiceError | None:
        return next((known for each in classifiers if (known := each(error)) is not None), None)

    return classify


class FaultInterceptor(Interceptor):
    def __init__(self, classify: Classifier) -> None:
        self._classify = classify

    async def intercept(self, rpc: Rpc, proceed: Proceed) -> None:
        try:
            await proceed()
        except (ServiceError, grpc.aio.AbortError):
            raise
        except Exception as error:
            raise translate(error, classify=self._classify, method=rpc.method) from error


class StatusInterceptor(Interceptor):
    async def intercept(self, rpc: Rpc, proceed: Proceed) -> None:
        try:
            await proceed()
        except (asyncio.CancelledError, grpc.aio.AbortError):
            raise
        except Exception as error:  # noqa: BLE001 - the border: all that is left ends as a status
            known = translate(error, classify=_unknown, method=rpc.method)
            status = errors.to_status(known)
            await rpc.context.abort(
                errors.status_code(known.code),
                status.message,
                ((errors.DETAILS_KEY, status.SerializeToString()),),
            )


def translate(error: Exception, *, classify: Classifier, method: str) -> ServiceError:
    """The error that the client may see. Of a group, one unexpected member makes it a fault."""
    first: ServiceError | None = None
    for leaf in _leaves(error):
        known = leaf if isinstance(leaf, ServiceError) else classify(leaf)
        if known is None:
            return _fault(error, method)
        first = first or known
    return first or _fault(error, method)


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        return [leaf for member in group.exceptions for leaf in _leaves(member)]
    return [error]


def _fault(error: Exception, method: str) -> InternalFault:
    incident_id = uuid.uuid4().hex
    logger.error("rpc_fault", method=method, incident_id=incident_id, exc_info=error)
    return InternalFault.of(incident_id)


def _unknown(_error: BaseException) -> ServiceError | None:
    return None
