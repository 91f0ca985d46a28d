"""The RPCs over real gRPC, checks of the contract included. Nothing is extracted unless a test says so."""

from collections.abc import AsyncIterator, Iterator
from hashlib import sha256
from uuid import uuid4

import grpc
import grpc.aio
import pytest
from scristill.errors.v1 import error_reason_pb2
from scristill.extractor.v1 import (
    consistency_service_pb2,
    extraction_pb2,
    extraction_service_pb2,
    project_pb2,
    project_service_pb2,
    source_pb2,
    source_service_pb2,
)

from services.shared.errors import Code, Reason, RemoteError
from services.shared.grpc.errors import remote_errors
from tests.integration.extractor.conftest import Desk
from tests.integration.extractor.peers import ScriptedGateway, ScriptedIndexer
from tests.integration.extractor.service import Extractor, serving_extractor
from tests.support.waiting import eventually

TEXT = "Ada wrote programs. Grace found bugs. Alan broke codes."


@pytest.fixture
async def extractor(extractor_url: str, peers: str) -> AsyncIterator[Extractor]:
    async with serving_extractor(
        extractor_url,
        scheduler_address=peers,
        llm_gateway_address=peers,
        indexer_address=peers,
        max_source_bytes=200_000,
        max_call_bytes=100_000,
    ) as running:
        yield running


def _create(**fields: object) -> project_service_pb2.CreateProjectRequest:
    fields = {"display_name": f"p {uuid4()}"} | fields
    return project_service_pb2.CreateProjectRequest(
        request_id=str(uuid4()), project=project_service_pb2.NewProject(**fields)
    )


async def _refused(call: grpc.aio.UnaryUnaryCall) -> RemoteError:
    with pytest.raises(RemoteError) as caught, remote_errors("extractor"):
        await call
    return caught.value


class TestProjects:
    async def test_a_project_without_a_schema_gets_the_default_template(self, extractor: Extractor) -> None:
        project = (await extractor.projects.CreateProject(_create())).project

        assert [group.name for group in project.schema.groups] == ["facts", "entities"]
        assert project.grounding_policy == project_pb2.GROUNDING_POLICY_DROP
        assert project.etag == "1"

    async def test_creating_is_idempotent_by_request_id(self, extractor: Extractor) -> None:
        request = _create()

        first, second = [(await extractor.projects.CreateProject(request)).project for _ in range(2)]

        assert first == second

    async def test_a_request_id_with_another_payload_is_refused(self, extractor: Extractor) -> None:
        request = _create()
        await extractor.projects.CreateProject(request)
        request.project.description = "other"

        assert (await _refused(extractor.projects.CreateProject(request))).reason is Reason.REQUEST_ID_REUSED

    async def test_a_name_that_is_taken_names_its_owner(self, extractor: Extractor) -> None:
        project = (await extractor.projects.CreateProject(_create(display_name="mine"))).project

        error = await _refused(extractor.projects.CreateProject(_create(display_name="mine")))

        assert (error.code, error.metadata["id"]) == (Code.ALREADY_EXISTS, project.project_id)

    async def test_a_bad_schema_is_refused_with_its_field(self, extractor: Extractor) -> None:
        schema = project_pb2.ExtractionSchema(groups=[project_pb2.FieldGroup(name="a", item_schema="[]")])

        error = await _refused(extractor.projects.CreateProject(_create(schema=schema)))

        assert error.reason is Reason.SCHEMA_INVALID
        assert error.field_violations[0].field == "schema.groups[0].item_schema"

    async def test_an_unknown_template_is_not_found(self, extractor: Extractor) -> None:
        assert (await _refused(extractor.projects.CreateProject(_create(template="none")))).code is Code.NOT_FOUND

    async def test_a_project_is_found_by_name_and_by_id(self, extractor: Extractor) -> None:
        project = (await extractor.projects.CreateProject(_create(display_name="by name"))).project

        by_name = await extractor.projects.GetProject(project_service_pb2.GetProjectRequest(display_name="by name"))
        by_id = await extractor.projects.GetProject(
            project_service_pb2.GetProjectRequest(project_id=project.project_id)
        )

        assert by_name == by_id

    async def test_projects_are_paged_newest_first(self, extractor: Extractor) -> None:
        ids = [(await extractor.projects.CreateProject(_create())).project.project_id for _ in range(5)]

        seen, token = [], ""
        while True:
            page = await extractor.projects.ListProjects(
                project_service_pb2.ListProjectsRequest(page_size=2, page_token=token)
            )
            seen += [project.project_id for project in page.projects]
            token = page.next_page_token
            if not token:
                break

        assert seen == ids[::-1]

    async def test_only_masked_fields_change(self, extractor: Extractor) -> None:
        project = (await extractor.projects.CreateProject(_create(description="old"))).project
        request = project_service_pb2.UpdateProjectRequest(
            project=project_pb2.Project(
                project_id=project.project_id, display_name="other", description="new", model="other", etag="1"
            )
        )
        request.update_mask.paths.append("description")

        updated = (await extractor.projects.UpdateProject(request)).project

        assert (updated.description, updated.model, updated.etag) == ("new", "", "2")
        assert updated.display_name == project.display_name

    async def test_an_old_etag_is_refused(self, extractor: Extractor) -> None:
        project_id = await extractor.project()
        request = project_service_pb2.UpdateProjectRequest(
            project=project_pb2.Project(project_id=project_id, display_name="x", etag="7")
        )
        request.update_mask.paths.append("display_name")

        error = await _refused(extractor.projects.UpdateProject(request))

        assert (error.code, error.metadata["current_etag"]) == (Code.ABORTED, "1")

    async def test_a_field_that_cannot_change_is_named(self, extractor: Extractor) -> None:
        request = project_service_pb2.UpdateProjectRequest(
            project=project_pb2.Project(project_id=await extractor.project(), display_name="x")
        )
        request.update_mask.paths.append("create_time")

        assert (await _refused(extractor.projects.UpdateProject(request))).reason is Reason.INVALID_REQUEST

    async def test_deleting_what_does_not_exist_succeeds(self, extractor: Extractor) -> None:
        request = project_service_pb2.DeleteProjectRequest(project_id=str(uuid4()))

        assert (await extractor.projects.DeleteProject(request)).source_count == 0

    async def test_templates_are_listed(self, extractor: Extractor) -> None:
        response = await extractor.projects.ListTemplates(project_service_pb2.ListTemplatesRequest())

        assert "default" in [template.name for template in response.templates]


class TestSources:
    async def test_a_source_is_durable_with_its_job(self, extractor: Extractor) -> None:
        project_id = await extractor.project()

        (result,) = await extractor.create(project_id, a=TEXT)

        assert result.changed
        source = await extractor.source(result.source.source_id)
        assert (source.state, source.version, source.visible_version) == (source_pb2.SOURCE_STATE_PENDING, 1, 0)
        assert (source.uri, source.size_bytes) == ("file:///a.txt", len(TEXT))
        assert source.job_id == result.source.job_id

    async def test_the_same_content_changes_nothing(self, extractor: Extractor) -> None:
        project_id = await extractor.project()
        await extractor.create(project_id, a=TEXT)

        (again,) = await extractor.create(project_id, a=TEXT)
        (other,) = await extractor.create(project_id, a="Linus made git.")

        assert (again.changed, again.source.version) == (False, 1)
        assert (other.changed, other.source.version) == (True, 2)

    async def test_of_the_same_uri_twice_the_last_one_counts(self, extractor: Extractor) -> None:
        project_id = await extractor.project()
        request = source_service_pb2.CreateSourcesRequest(project_id=project_id)
        for text in ("one", "two"):
            request.sources.add(spec=source_pb2.SourceSpec(uri="file:///a"), text=text)

        first, second = (await extractor.sources.CreateSources(request)).results

        assert (first.changed, second.changed) == (False, True)
        assert first.source == second.source
        assert second.source.version == 1

    async def test_a_source_that_is_too_large_is_refused_alone(self, extractor: Extractor) -> None:
        project_id = await extractor.project()

        large, small = await extractor.create(project_id, large="x" * 150_000, small=TEXT)

        assert large.failure.reason == error_reason_pb2.ERROR_REASON_TOO_LARGE
        assert large.failure.metadata["size_bytes"] == "150000"
        assert small.changed

    async def test_what_postgresql_cannot_hold_is_refused_alone(self, extractor: Extractor) -> None:
        project_id = await extractor.project()
        request = source_service_pb2.CreateSourcesRequest(project_id=project_id)
        request.sources.add(spec=source_pb2.SourceSpec(uri="file:///a", title="a\x00b"), text=TEXT)
        request.sources.add(spec=source_pb2.SourceSpec(uri="file:///b"), text="NUL in\x00 text")

        refused, stored = (await extractor.sources.CreateSources(request)).results

        assert refused.failure.reason == error_reason_pb2.ERROR_REASON_INVALID_REQUEST
        assert stored.changed
        error = await _refused(extractor.projects.CreateProject(_create(description="a\x00")))
        assert error.reason is Reason.INVALID_REQUEST

    async def test_an_unknown_project_is_not_found(self, extractor: Extractor) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await extractor.create(str(uuid4()), a=TEXT)

        assert caught.value.code() is grpc.StatusCode.NOT_FOUND

    async def test_sources_are_filtered_and_paged(self, extractor: Extractor) -> None:
        project_id = await extractor.project()
        request = source_service_pb2.CreateSourcesRequest(project_id=project_id)
        for n in range(5):
            request.sources.add(spec=source_pb2.SourceSpec(uri=f"file:///{n}", group=f"g{n % 2}"), text="x")
        await extractor.sources.CreateSources(request)

        seen, token = [], ""
        while True:
            page = await extractor.sources.ListSources(
                source_service_pb2.ListSourcesRequest(
                    project_id=project_id, groups=["g0"], page_size=2, page_token=token
                )
            )
            seen += [source.uri for source in page.sources]
            token = page.next_page_token
            if not token:
                break

        assert sorted(seen) == ["file:///0", "file:///2", "file:///4"]

    async def test_a_token_of_another_filter_is_refused(self, extractor: Extractor) -> None:
        project_id = await extractor.project()
        await extractor.create(project_id, a="x", b="y")
        page = await extractor.sources.ListSources(
            source_service_pb2.ListSourcesRequest(project_id=project_id, page_size=1)
        )

        error = await _refused(
            extractor.sources.ListSources(
                source_service_pb2.ListSourcesRequest(
                    project_id=project_id, groups=["g"], page_token=page.next_page_token
                )
            )
        )

        assert error.reason is Reason.PAGE_TOKEN_INVALID

    async def test_what_is_not_done_yet_says_so(self, extractor: Extractor) -> None:
        request = source_service_pb2.CrawlSiteRequest(
            request_id=str(uuid4()), project_id=str(uuid4()), url="https://example.org/"
        )

        assert (await _refused(extractor.sources.CrawlSite(request))).reason is Reason.NOT_IMPLEMENTED


class TestUpload:
    async def _upload(self, extractor: Extractor, *frames: source_service_pb2.UploadSourceRequest) -> object:
        return await extractor.sources.UploadSource(iter(frames))

    def _frames(
        self, project_id: str, content: bytes, *, size: int = 0
    ) -> Iterator[source_service_pb2.UploadSourceRequest]:
        header = source_service_pb2.UploadHeader(
            project_id=project_id, spec=source_pb2.SourceSpec(uri="file:///large"), size_bytes=size
        )
        yield source_service_pb2.UploadSourceRequest(header=header)
        for start in range(0, len(content), 40_000):
            yield source_service_pb2.UploadSourceRequest(chunk=content[start : start + 40_000])

    async def test_a_large_document_comes_in_parts(self, extractor: Extractor) -> None:
        project_id = await extractor.project()
        content = b"x" * 150_000

        response = await self._upload(extractor, *self._frames(project_id, content, size=len(content)))

        assert response.result.changed
        assert response.result.source.size_bytes == 150_000

    async def test_more_than_the_limit_is_refused(self, extractor: Extractor) -> None:
        frames = self._frames(await extractor.project(), b"x" * 250_000)

        error = await _refused(self._upload(extractor, *frames))

        assert (error.code, error.reason) == (Code.INVALID_ARGUMENT, Reason.TOO_LARGE)

    async def test_a_size_that_does_not_match_stores_nothing(self, extractor: Extractor) -> None:
        project_id = await extractor.project()

        error = await _refused(self._upload(extractor, *self._frames(project_id, b"abc", size=4)))

        assert error.reason is Reason.INVALID_REQUEST
        page = await extractor.sources.ListSources(source_service_pb2.ListSourcesRequest(project_id=project_id))
        assert list(page.sources) == []

    async def test_a_stream_without_a_header_is_refused(self, extractor: Extractor) -> None:
        error = await _refused(self._upload(extractor, source_service_pb2.UploadSourceRequest(chunk=b"x")))

        assert error.reason is Reason.INVALID_REQUEST


class TestExtractions:
    @pytest.fixture
    async def project_id(self, desk: Desk) -> str:
        project = await desk.project()
        for n in range(7):
            await desk.distilled(project, f"{TEXT} Person{n} came by.", uri=f"file:///{n}.txt")
        return str(project.project_id)

    async def test_facts_are_paged_by_source_and_position(self, extractor: Extractor, project_id: str) -> None:
        seen, token = [], ""
        while True:
            page = await extractor.extractions.ListExtractions(
                extraction_service_pb2.ListExtractionsRequest(project_id=project_id, page_size=5, page_token=token)
            )
            seen += [(fact.source_id, fact.quote.start) for fact in page.extractions]
            token = page.next_page_token
            if not token:
                break

        assert len(seen) == 28
        assert seen == sorted(seen)

    async def test_values_carry_their_own_span(self, extractor: Extractor, project_id: str) -> None:
        fact = next(fact for fact in await extractor.facts(project_id) if fact.statement.startswith("Grace"))

        value = next(value for value in fact.values if value.name == "object")

        assert (value.value, value.quote.text) == ("bugs", "bugs")
        assert value.quote.start == fact.quote.start + len("Grace found ")

    async def test_facts_are_filtered(self, extractor: Extractor, project_id: str) -> None:
        source_id = (await extractor.facts(project_id))[0].source_id
        request = extraction_service_pb2.ListExtractionsRequest(project_id=project_id)
        request.filter.source_ids.append(source_id)
        request.filter.groups.append("facts")
        request.filter.categories.append("other")
        request.filter.min_confidence = 0.5

        assert len((await extractor.extractions.ListExtractions(request)).extractions) == 4
        request.filter.categories[:] = ["event"]
        assert len((await extractor.extractions.ListExtractions(request)).extractions) == 0

    async def test_a_stream_ends_with_done_and_resumes_by_token(self, extractor: Extractor, project_id: str) -> None:
        request = extraction_service_pb2.StreamExtractionsRequest(project_id=project_id)
        frames = [frame async for frame in extractor.extractions.StreamExtractions(request)]

        assert frames[-1].done.extraction_count == 28
        page = await extractor.extractions.ListExtractions(
            extraction_service_pb2.ListExtractionsRequest(project_id=project_id, page_size=20)
        )
        request.resume_token = page.next_page_token
        rest = [frame async for frame in extractor.extractions.StreamExtractions(request)]
        assert rest[-1].done.extraction_count == 8

    async def test_one_fact_is_got_by_id(self, extractor: Extractor, project_id: str) -> None:
        fact = (await extractor.facts(project_id))[0]

        response = await extractor.extractions.GetExtraction(
            extraction_service_pb2.GetExtractionRequest(extraction_id=fact.extraction_id)
        )

        assert response.extraction.item_key == fact.item_key
        missing = extraction_service_pb2.GetExtractionRequest(extraction_id=str(uuid4()))
        assert (await _refused(extractor.extractions.GetExtraction(missing))).code is Code.NOT_FOUND

    async def test_entities_are_listed_most_mentioned_first(self, extractor: Extractor, project_id: str) -> None:
        request = extraction_service_pb2.ListEntitiesRequest(project_id=project_id, page_size=4)
        page = await extractor.extractions.ListEntities(request)
        request.page_token = page.next_page_token
        rest = await extractor.extractions.ListEntities(request)

        names = [entity.name for entity in [*page.entities, *rest.entities]]
        assert set(names[:3]) == {"Ada", "Grace", "Alan"}
        assert (page.entities[0].extraction_count, page.entities[0].source_count) == (7, 7)
        assert len(names) == len(set(names)) == 8
        request = extraction_service_pb2.ListEntitiesRequest(project_id=project_id, name_prefix="gra", types=["person"])
        assert [e.name for e in (await extractor.extractions.ListEntities(request)).entities] == ["Grace"]

    async def test_coverage_has_no_gaps(self, extractor: Extractor, desk: Desk, gateway: ScriptedGateway) -> None:
        project = await desk.project()
        filler = "and this part of the sentence only fills the paragraph up " * 20
        gateway.refuse = lambda text: "Person3 " in text
        source = await desk.distilled(project, "\n\n".join(f"Person{n} came {filler}." for n in range(9)) + "\n\n\n")

        coverage = await extractor.extractions.GetCoverage(
            extraction_service_pb2.GetCoverageRequest(source_id=str(source.source_id))
        )

        assert coverage.ranges[0].start == 0
        assert coverage.ranges[-1].end == coverage.text_length
        assert all(left.end == right.start for left, right in zip(coverage.ranges, coverage.ranges[1:], strict=False))
        states = {each.state for each in coverage.ranges}
        assert {extraction_pb2.COVERAGE_STATE_FAILED, extraction_pb2.COVERAGE_STATE_SKIPPED} < states
        assert 0 < coverage.covered_share < 1
        assert coverage.HasField("extraction_duration")

    async def test_the_text_that_spans_refer_to_can_be_read(self, extractor: Extractor, project_id: str) -> None:
        fact = (await extractor.facts(project_id))[5]

        response = await extractor.sources.GetSource(
            source_service_pb2.GetSourceRequest(source_id=fact.source_id, include_text=True)
        )

        assert response.text[fact.quote.start : fact.quote.end] == fact.quote.text


class TestConsistency:
    async def test_dead_letters_are_listed_and_replayed(
        self, extractor: Extractor, desk: Desk, indexer: ScriptedIndexer
    ) -> None:
        indexer.reject = {"Grace found bugs."}
        project = await desk.project()
        await desk.distilled(project, TEXT)
        request = consistency_service_pb2.ListDeadLettersRequest(project_id=str(project.project_id))

        async def letters() -> list:
            return list((await extractor.consistency.ListDeadLetters(request)).dead_letters)

        (letter,) = await eventually(letters)
        assert letter.reason == error_reason_pb2.ERROR_REASON_TEXT_EMPTY
        assert "Grace found bugs." in letter.context
        indexer.reject = set()
        unknown = str(uuid4())
        response = await extractor.consistency.ReplayDeadLetters(
            consistency_service_pb2.ReplayDeadLettersRequest(fact_ids=[letter.fact_id, unknown])
        )
        assert [result.HasField("failure") for result in response.results] == [False, True]
        await eventually(lambda: letter.fact_id in indexer.live)


class TestDeletion:
    async def test_a_deletion_is_certified(self, extractor: Extractor, desk: Desk, indexer: ScriptedIndexer) -> None:
        project = await desk.project()
        source = await desk.distilled(project, TEXT)
        other = await desk.distilled(project, "Linus made git.", uri="file:///b.txt")
        await eventually(lambda: len(indexer.live) == 4)
        ids = sorted(fact.extraction_id for fact in await desk.facts(project) if fact.source_id == source.source_id)

        request = source_service_pb2.DeleteSourceRequest(source_id=str(source.source_id), certify=True)
        certificate = (await extractor.sources.DeleteSource(request, timeout=20)).certificate

        assert (certificate.fact_count, certificate.point_count, certificate.remaining_point_count) == (3, 3, 0)
        assert (certificate.chunk_count, certificate.cached_result_count, certificate.gateway_result_count) == (1, 1, 1)
        assert certificate.fact_digest == sha256(b"".join(fact_id.bytes for fact_id in ids)).digest()
        assert {fact.source_id for fact in await desk.facts(project)} == {other.source_id}

    async def test_a_certificate_waits_for_the_index(
        self, extractor: Extractor, desk: Desk, indexer: ScriptedIndexer
    ) -> None:
        project = await desk.project()
        source = await desk.distilled(project, TEXT)
        await eventually(lambda: len(indexer.live) == 3)
        indexer.gate.clear()

        request = source_service_pb2.DeleteSourceRequest(source_id=str(source.source_id), certify=True)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await extractor.sources.DeleteSource(request, timeout=0.7)
        indexer.gate.set()

        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert await desk.facts(project) == []
