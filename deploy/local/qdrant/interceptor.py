"""What every answer has in common: errors become statuses, unwritten RPCs say so, and the time taken is filled in."""

import inspect
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import grpc.aio

from deploy.local.qdrant.errors import RequestError

log = logging.getLogger(__name__)

_Behaviour = Callable[[Any, Any], Awaitable[Any]]


class AnswerInterceptor(grpc.aio.ServerInterceptor):
    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler: Any = await continuation(handler_call_details)
        if handler is None or handler.unary_unary is None:
            return handler
        # The generated base classes have plain functions, the services coroutines.
        written = inspect.iscoroutinefunction(handler.unary_unary)
        return grpc.unary_unary_rpc_method_handler(
            _answering(handler.unary_unary) if written else _refusing(handler_call_details.method),
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )


def _answering(behaviour: _Behaviour) -> Any:
    async def answer(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        started = time.perf_counter()
        try:
            response = await behaviour(request, context)
        except RequestError as error:
            await context.abort(error.code, error.message)
        except grpc.aio.AbortError:
            raise
        except Exception:
            # The last line of defence: a fault of this program, reported to its log and not to the caller.
            log.exception("request_failed")
            await context.abort(grpc.StatusCode.INTERNAL, "Service internal error")
        if "time" in response.DESCRIPTOR.fields_by_name:
            response.time = time.perf_counter() - started
        return response

    return answer


def _refusing(method: str) -> Any:
    async def refuse(_request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, f"Not supported by the local stand-in: {method}")

    return refuse
