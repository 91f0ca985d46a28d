"""Uploads that are cancelled: what did not come whole is not stored."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
from scristill.extractor.v1 import source_pb2, source_service_pb2

from services.extractor.adapters.clients.index_audit import IndexAuditClient
from services.extractor.adapters.clients.llm_gateway import GatewayCache
from services.extractor.application.certify import CertifyDeletion
from services.extractor.entrypoints.source_servicer import SourceServicer
from services.shared.errors import Cancelled
from services.shared.grpc.channel import Channel
from tests.integration.extractor.conftest import Desk
from tests.integration.extractor.service import Extractor, serving_extractor

HALF = source_service_pb2.UploadSourceRequest(chunk=b"half of it")


@pytest.fixture
async def extractor(extractor_url: str, peers: str) -> AsyncIterator[Extractor]:
    async with serving_extractor(
        extractor_url, scheduler_address=peers, llm_gateway_address=peers, indexer_address=peers
    ) as running:
        yield running


def _header(project_id: str) -> source_service_pb2.UploadSourceRequest:
    header = source_service_pb2.UploadHeader(project_id=project_id, spec=source_pb2.SourceSpec(uri="file:///a"))
    return source_service_pb2.UploadSourceRequest(header=header)


@dataclass(frozen=True, slots=True)
class Call:
    """What the servicer asks of its context."""

    is_cancelled: bool

    def cancelled(self) -> bool:
        return self.is_cancelled


async def test_requests_that_end_because_the_call_was_cancelled_are_no_document(desk: Desk, channel: Channel) -> None:
    """gRPC ends them as it does when the client has sent everything; only the context tells one from the other."""
    project = await desk.project()

    async def requests() -> AsyncIterator[source_service_pb2.UploadSourceRequest]:
        yield _header(str(project.project_id))
        yield HALF

    servicer = SourceServicer(
        commands=desk.commands,
        queries=desk.queries,
        certify=CertifyDeletion(
            unit_of_work=desk.unit_of_work,
            cache=GatewayCache(channel),
            index=IndexAuditClient(channel),
            wake=desk.woken.append,
        ),
        max_upload_bytes=1000,
        upload_concurrency=1,
    )
    with pytest.raises(Cancelled):
        await servicer.UploadSource(requests(), Call(is_cancelled=True))
    assert await desk.execute("SELECT 1 FROM extractor.sources") == []

    await servicer.UploadSource(requests(), Call(is_cancelled=False))
    assert len(await desk.execute("SELECT 1 FROM extractor.sources")) == 1


async def test_an_upload_that_its_client_cancels_stores_nothing(extractor: Extractor) -> None:
    project_id = await extractor.project()
    call = extractor.sources.UploadSource()
    await call.write(_header(project_id))
    await call.write(HALF)

    call.cancel()

    await asyncio.sleep(0.3)
    page = await extractor.sources.ListSources(source_service_pb2.ListSourcesRequest(project_id=project_id))
    assert list(page.sources) == []
