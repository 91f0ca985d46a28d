import asyncio
import io
import json
import logging as stdlib_logging
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
import structlog
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context

from services.shared.lifecycle import wait_for_event
from services.shared.settings import LogFormat, LogLevel
from services.shared.telemetry import exposition, logging, tracing
from services.shared.telemetry.loop_lag import LoopLag, LoopLagReporter
from services.shared.telemetry.metrics import Metrics
from services.shared.telemetry.trace_ids import IdsOnlyProvider

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = f"00-{TRACE_ID}-b7ad6b7169203331-01"

Output = Callable[[], str]


@pytest.fixture
def configure() -> Iterator[Callable[..., Output]]:
    root = stdlib_logging.getLogger()
    handlers, level = root.handlers[:], root.level

    def start(log_format: LogFormat = LogFormat.JSON, level: LogLevel = LogLevel.INFO) -> Output:
        output = io.TextIOWrapper(io.BytesIO(), write_through=True)
        logging.configure(service="greeter", version="1.2.3", level=level, log_format=log_format, output=output)
        return lambda: output.buffer.getvalue().decode()

    yield start
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


def test_line_says_what_when_and_who(configure):
    output = configure()
    structlog.stdlib.get_logger("x").info("job_leased", job_id=7)

    line = json.loads(output())
    assert (line["event"], line["job_id"], line["level"]) == ("job_leased", 7, "info")
    assert (line["service"], line["version"]) == ("greeter", "1.2.3")
    assert line["timestamp"].endswith("Z")


def test_lines_below_the_level_are_dropped(configure):
    output = configure(level=LogLevel.WARNING)
    structlog.stdlib.get_logger("x").info("quiet")
    stdlib_logging.getLogger("library").info("quiet")

    assert output() == ""


def test_lines_of_libraries_look_the_same(configure):
    output = configure()
    stdlib_logging.getLogger("library").warning("disk %s is full", "sda")

    line = json.loads(output())
    assert (line["event"], line["logger"], line["service"]) == ("disk sda is full", "library", "greeter")


def test_traceback_is_part_of_the_line(configure):
    output = configure()
    try:
        int("broken")
    except ValueError:
        structlog.stdlib.get_logger("x").exception("failed")

    assert "ValueError: invalid literal" in json.loads(output())["exception"]


def test_console_is_for_people(configure):
    output = configure(LogFormat.CONSOLE)
    structlog.stdlib.get_logger("x").info("job_leased", job_id=7)
    stdlib_logging.getLogger("library").warning("disk full")

    assert "job_leased" in output()
    assert "disk full" in output()


def test_line_inside_a_span_has_its_ids(configure):
    output = configure()
    context = trace.set_span_in_context(trace.get_current_span(tracing.extract(TRACEPARENT)))
    token = otel_context.attach(context)
    structlog.stdlib.get_logger("x").info("inside")
    otel_context.detach(token)

    assert json.loads(output())["trace_id"] == TRACE_ID


def test_stored_traceparent_becomes_a_link():
    link = tracing.link_from(TRACEPARENT)

    assert f"{link.context.trace_id:032x}" == TRACE_ID


@pytest.mark.parametrize("stored", ["", "nonsense", "00-00000000000000000000000000000000-0000000000000000-00"])
def test_row_without_a_valid_traceparent_has_no_link(stored: str):
    assert tracing.link_from(stored) is None


def ids_of(span: trace.Span) -> tuple[str, str, int]:
    context = span.get_span_context()
    return f"{context.trace_id:032x}", f"{context.span_id:016x}", context.trace_flags


def test_ids_without_spans_continue_the_trace_of_the_caller():
    tracer = IdsOnlyProvider().get_tracer("x")
    span = tracer.start_span("call", tracing.extract(TRACEPARENT))

    trace_id, span_id, flags = ids_of(span)
    assert (trace_id, flags) == (TRACE_ID, 1)
    assert span_id != TRACEPARENT.split("-")[2]
    assert not span.is_recording()


def test_ids_without_spans_begin_a_trace_where_there_is_none():
    tracer = IdsOnlyProvider().get_tracer("x")
    with tracer.start_as_current_span("outer", Context()) as outer, tracer.start_as_current_span("inner") as inner:
        current = trace.get_current_span().get_span_context()

    assert ids_of(outer)[0] == ids_of(inner)[0]
    assert ids_of(outer)[1] != ids_of(inner)[1]
    assert current == inner.get_span_context()
    assert ids_of(outer)[2] == 0


def test_page_of_metrics_has_no_series_of_creation_times():
    metrics = Metrics()
    metrics.counter("scristill_test_total", "Test.").inc()
    metrics.histogram("scristill_test_seconds", "Test.").observe(1)

    assert b"_created" not in metrics.render()


def test_metric_asked_for_twice_is_one():
    metrics = Metrics()
    first = metrics.counter("scristill_test_total", "Test.", labels=("kind",))

    assert metrics.counter("scristill_test_total", "Test.", labels=("kind",)) is first


async def test_blocked_loop_shows_as_lag():
    lag, stop = LoopLag(interval=0.01), asyncio.Event()
    measuring = asyncio.create_task(lag.run(stop))
    await asyncio.sleep(0.03)
    lag.reset()
    time.sleep(0.2)  # noqa: ASYNC251 - the fault that is to be seen
    await asyncio.sleep(0.03)
    stop.set()
    await measuring

    assert lag.reset() > 0.15
    assert lag.worst == 0


async def test_reporter_exports_the_worst_lag():
    metrics, stop = Metrics(), asyncio.Event()
    reporting = asyncio.create_task(LoopLagReporter(metrics, period=0.15).run(stop))
    await asyncio.sleep(0.06)
    time.sleep(0.2)  # noqa: ASYNC251 - the fault that is to be seen
    await wait_for_event(stop, 0.3)
    value = metrics.registry.get_sample_value("scristill_event_loop_lag_seconds")
    stop.set()
    await reporting

    assert value is not None


async def ask(port: int, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    async with asyncio.timeout(5):
        answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


async def test_exposition_answers_metrics_health_and_nothing_else():
    metrics, serving = Metrics(), True
    metrics.counter("scristill_test_total", "Test.").inc(3)
    async with exposition.serve(metrics, host="127.0.0.1", port=0, serving=lambda: serving) as port:
        assert b"scristill_test_total 3.0" in await ask(port, b"GET /metrics?x=1 HTTP/1.1\r\n\r\n")
        assert (await ask(port, b"GET /healthz HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        assert (await ask(port, b"GET / HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 404 ")
        serving = False
        assert (await ask(port, b"GET /healthz HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 503 ")


async def test_exposition_survives_a_client_that_speaks_nonsense():
    async with exposition.serve(Metrics(), host="127.0.0.1", port=0, serving=lambda: True) as port:
        assert await ask(port, b"nonsense\r\n\r\n") == b""
        with suppress(ConnectionResetError):
            await ask(port, b"x" * 200_000 + b"\r\n\r\n")
        assert b" 200 " in await ask(port, b"GET /healthz HTTP/1.1\r\n\r\n")


async def test_negative_port_serves_nothing():
    async with exposition.serve(Metrics(), host="127.0.0.1", port=-1, serving=lambda: True) as port:
        assert port is None
