"""One line per RPC: method, code, duration, peer, message counts; trace ids come from the log processors."""

from typing import Any

import structlog

from services.shared.errors import Code, ServiceError
from services.shared.grpc.interceptors.base import Interceptor, Proceed, Rpc

logger = structlog.stdlib.get_logger("rpc")

# Probes come every few seconds and say nothing when they succeed.
_QUIET = ("/grpc.health.v1.Health/", "/grpc.reflection.")


class LoggingInterceptor(Interceptor):
    async def intercept(self, rpc: Rpc, proceed: Proceed) -> None:
        try:
            await proceed()
        except BaseException as error:
            rpc.record(error)
            raise
        finally:
            self._write(rpc)

    def _write(self, rpc: Rpc) -> None:
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
        if rpc.code is Code.OK and rpc.method.startswith(_QUIET):
            logger.debug("rpc", **fields)
        else:
            logger.info("rpc", **fields)


def _incident(error: ServiceError) -> dict[str, str]:
    incident_id = error.metadata.get("incident_id")
    return {"incident_id": incident_id} if incident_id else {}
