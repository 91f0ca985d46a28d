"""PostgreSQL goes away and comes back: the log says each once, and work goes on."""

import grpc.aio
import pytest
import structlog
from sqlalchemy.engine import make_url

from services.shared.errors import Reason
from services.shared.grpc.errors import from_rpc_error
from tests.integration.scheduler import builders, harness
from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import eventually

AWAY = "scristill_scheduler_database_away"


@pytest.fixture
async def wire(scheduler_url):
    url = make_url(scheduler_url)
    async with TcpProxy(url.host, url.port or 5432) as proxy:
        yield proxy


@pytest.fixture
async def replica(scheduler_url, wire):
    url = make_url(scheduler_url).set(host="127.0.0.1", port=wire.port)
    async with harness.replica(
        url.render_as_string(hide_password=False), statistics_seconds=0.1, foreign_poll_seconds=0.05
    ) as running:
        yield running


async def test_an_outage_is_logged_when_it_begins_and_when_it_ends(replica, scheduler, wire):
    def away() -> float | None:
        return replica.runtime.metrics.registry.get_sample_value(AWAY)

    async with builders.leasing(scheduler, max_in_flight=3) as stream:
        await builders.create(scheduler, 6)
        held = await stream.take(3)
        with structlog.testing.capture_logs() as lines:
            wire.cut()
            await eventually(lambda: away() == 1)
            # Every loop finds out, more than once.
            tried = wire.accepted
            await eventually(lambda: wire.accepted > tried + 12)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await builders.complete(scheduler, *held)
            wire.resume()
            await eventually(lambda: away() == 0)
            await builders.complete(scheduler, *held)
            await builders.complete(scheduler, *await stream.take(3))

    assert from_rpc_error(caught.value, peer="scheduler").reason is Reason.DEPENDENCY_UNAVAILABLE
    of_database = [(line["log_level"], line["event"]) for line in lines if line["event"].startswith("database_")]
    assert of_database == [("warning", "database_away"), ("info", "database_back")]
    assert not [line for line in lines if line["log_level"] == "error" or line["event"] == "work_failed"]
