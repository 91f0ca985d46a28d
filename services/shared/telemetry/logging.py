"""Structured logs on standard output: an event name and key/values, with trace ids.

Everything goes through structlog; the standard library's logging is routed into the
same processors, so that lines of libraries look the same. Modules log with
`logger = structlog.stdlib.get_logger(__name__)`.
"""

import logging
import sys
from typing import Any, TextIO

import orjson
import structlog
from opentelemetry import trace
from structlog.typing import EventDict, Processor, WrappedLogger

from services.shared.settings import LogFormat, LogLevel

# Chatty below WARNING, and never about what an operator can act on.
_QUIET_LIBRARIES = ("asyncio", "grpc", "httpx", "sqlalchemy", "alembic.runtime.plugins")


def configure(
    *, service: str, version: str, level: LogLevel, log_format: LogFormat, output: TextIO | None = None
) -> None:
    """Sets up both logging systems of the process, for standard output; a second call replaces the first."""
    stream = output or sys.stdout
    number = logging.getLevelNamesMapping()[level.upper()]
    shared = _processors(service=service, version=version)
    as_json = log_format is LogFormat.JSON
    structlog.configure(
        processors=[*shared, *_renderers(as_json=as_json)],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.BytesLoggerFactory(stream.buffer) if as_json else structlog.WriteLoggerFactory(stream),
        cache_logger_on_first_use=False,
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            *_renderers(as_json=as_json),
            _as_text,
        ],
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    logging.basicConfig(handlers=[handler], level=number, force=True)
    for name in _QUIET_LIBRARIES:
        logging.getLogger(name).setLevel(max(number, logging.WARNING))


def _processors(*, service: str, version: str) -> list[Processor]:
    def add_origin(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        event["service"] = service
        event["version"] = version
        return event

    return [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _add_trace,
        add_origin,
    ]


def _renderers(*, as_json: bool) -> list[Processor]:
    if as_json:
        return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(serializer=_dumps)]
    # Rich tracebacks print local variables, prompts and passwords among them, and block the loop for seconds.
    return [
        structlog.dev.ConsoleRenderer(colors=sys.stdout.isatty(), exception_formatter=structlog.dev.plain_traceback)
    ]


def _add_trace(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    context = trace.get_current_span().get_span_context()
    if context.is_valid:
        event["trace_id"] = f"{context.trace_id:032x}"
        event["span_id"] = f"{context.span_id:016x}"
    return event


def _dumps(event: EventDict, **_options: Any) -> bytes:
    return orjson.dumps(event, default=str)


def _as_text(_logger: WrappedLogger, _method: str, rendered: Any) -> str:
    return rendered.decode() if isinstance(rendered, bytes) else str(rendered)
