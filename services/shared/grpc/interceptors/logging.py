"""One line per RPC: method, code, duration, peer, message counts; trace ids come from the log processors."""

import logging
from typing import Any

import structlog

from services.shared.errors import Code, ServiceError
from services.shared.grpc.interceptors.base import Interceptor, Proceed, Rpc

# Probes come every few seconds and say nothing when they succeed.
_QUIET = ("/grpc.health.v1.Health/", "/grpc.reflection.")


class LoggingInterceptor(Interceptor):
    def __init__(self) -> None:
        # Bound once: a call whose line is not written must not pay for the logger either.
        self._logger: structlog.typing.FilteringBoundLogger = structlog.get_logger("rpc").bind()

    async def intercept(self, rpc: Rpc, proceed: Proceed) -> None:
        try:
            await proceed()
        except BaseException as error:
            rpc.record(error)
            raise
        finally:
            self._write(rpc)

    def _write(self, rpc: Rpc) -> None:
        level = logging.DEBUG if rpc.code is Code.OK and rpc.method.startswith(_QUIET) else logging.INFO
        if not self._logger.is_enabled_for(level):
            return
        fields: dict[str, Any] = {
            "method": rpc.name,
            "code": rpc.code.name,
            "duration_ms": round(rpc.elapsed * 1000, 3),
            "peer": rpc.context.peer(),
        }
        if rpc.streaming:
            fields |= {"received": rpc.received, "sent": rpc.sent}
        if isinstance(rpc.error, ServiceError):
            fields |= {"reason": rpc.error.reason.name, "message": rpc.error.message, **_incident(rpc.error)}
        self._logger.log(level, "rpc", **fields)


def _incident(error: ServiceError) -> dict[str, str]:
    incident_id = error.metadata.get("incident_id")
    return {"incident_id": incident_id} if incident_id else {}
