"""Between protobuf and values: projects and sources. Protobuf types end here."""

from dataclasses import replace
from datetime import UTC, datetime

from google.protobuf import timestamp_pb2
from scristill.errors.v1 import error_reason_pb2
from scristill.extractor.v1 import project_pb2, project_service_pb2, source_pb2, source_service_pb2

from services.extractor.application.certify import DeletionCertificate
from services.extractor.application.sources import CreateResult
from services.extractor.domain.grounding import GroundingPolicy
from services.extractor.domain.project import NewProject, Project
from services.extractor.domain.schema import ExtractionSchema, FieldGroup
from services.extractor.domain.source import NewSource, Source, SourceSpec, SourceState
from services.extractor.domain.templates import Template
from services.shared.errors import InvalidRequest, Reason
from services.shared.grpc.errors import to_item_failure

_POLICIES = {
    project_pb2.GROUNDING_POLICY_UNSPECIFIED: GroundingPolicy.DROP,
    project_pb2.GROUNDING_POLICY_DROP: GroundingPolicy.DROP,
    project_pb2.GROUNDING_POLICY_MARK: GroundingPolicy.MARK,
}
_POLICY_NUMBERS = {
    GroundingPolicy.DROP: project_pb2.GROUNDING_POLICY_DROP,
    GroundingPolicy.MARK: project_pb2.GROUNDING_POLICY_MARK,
}


def timestamp(time: datetime) -> timestamp_pb2.Timestamp:
    message = timestamp_pb2.Timestamp()
    message.FromDatetime(time.astimezone(UTC))
    return message


def reason(value: Reason) -> error_reason_pb2.ErrorReason.ValueType:
    return error_reason_pb2.ErrorReason.ValueType(value)


def to_schema(message: project_pb2.ExtractionSchema) -> ExtractionSchema:
    return ExtractionSchema(
        template=message.template,
        instructions=message.instructions,
        groups=tuple(
            FieldGroup(
                name=group.name,
                description=group.description,
                item_schema=group.item_schema,
                key_fields=tuple(group.key_fields),
                statement_field=group.statement_field,
                entities=group.entities,
                max_items=group.max_items,
            )
            for group in message.groups
        ),
    )


def from_schema(schema: ExtractionSchema) -> project_pb2.ExtractionSchema:
    return project_pb2.ExtractionSchema(
        template=schema.template,
        instructions=schema.instructions,
        groups=[
            project_pb2.FieldGroup(
                name=group.name,
                description=group.description,
                item_schema=group.item_schema,
                key_fields=group.key_fields,
                statement_field=group.statement_field,
                entities=group.entities,
                max_items=group.max_items,
            )
            for group in schema.groups
        ],
    )


def to_new_project(message: project_service_pb2.NewProject) -> NewProject:
    return NewProject(
        display_name=message.display_name,
        description=message.description,
        template=message.template,
        schema=to_schema(message.schema) if message.HasField("schema") else None,
        model=message.model,
        grounding_policy=_POLICIES[message.grounding_policy],
    )


def changed_project(present: Project, message: project_pb2.Project, paths: list[str]) -> Project:
    """`present` with the fields that `paths` name taken from the message."""
    for path in paths:
        match path:
            case "display_name":
                if not message.display_name:
                    raise InvalidRequest.of("project.display_name", "must not be empty")
                present = replace(present, display_name=message.display_name)
            case "description":
                present = replace(present, description=message.description)
            case "schema":
                present = replace(present, schema=to_schema(message.schema))
            case "model":
                present = replace(present, model=message.model)
            case "grounding_policy":
                present = replace(present, grounding_policy=_POLICIES[message.grounding_policy])
            case _:
                raise InvalidRequest.of("update_mask.paths", f"{path} cannot be changed")
    return present


def from_project(project: Project) -> project_pb2.Project:
    return project_pb2.Project(
        project_id=str(project.project_id),
        display_name=project.display_name,
        description=project.description,
        schema=from_schema(project.schema),
        model=project.model,
        grounding_policy=_POLICY_NUMBERS[project.grounding_policy],
        etag=str(project.revision),
        create_time=timestamp(project.create_time),
        update_time=timestamp(project.update_time),
        source_count=project.source_count,
        extraction_count=project.extraction_count,
    )


def from_template(template: Template) -> project_pb2.Template:
    return project_pb2.Template(
        name=template.name, description=template.description, schema=from_schema(template.schema)
    )


def to_spec(message: source_pb2.SourceSpec) -> SourceSpec:
    return SourceSpec(uri=message.uri, title=message.title, group=message.group, media_type=message.media_type)


def to_new_source(message: source_service_pb2.NewSource) -> NewSource:
    content = message.text.encode() if message.WhichOneof("content") == "text" else message.data
    return NewSource(spec=to_spec(message.spec), content=content)


def to_states(values: list[source_pb2.SourceState.ValueType]) -> list[SourceState]:
    """Unspecified means any state, so that it leaves no filter; numbers of a newer contract match nothing."""
    if source_pb2.SOURCE_STATE_UNSPECIFIED in values:
        return []
    unknown = set(values) - set(SourceState)
    if unknown:
        raise InvalidRequest.of("states", f"{min(unknown)} is not a state")
    return [SourceState(value) for value in values]


def from_source(source: Source) -> source_pb2.Source:
    return source_pb2.Source(
        source_id=str(source.source_id),
        project_id=str(source.project_id),
        uri=source.uri,
        title=source.title,
        group=source.group,
        media_type=source.media_type,
        state=source_pb2.SourceState.ValueType(source.state),
        version=source.version,
        visible_version=source.visible_version,
        content_hash=source.content_hash,
        size_bytes=source.size_bytes,
        text_length=source.text_length,
        chunk_count=source.chunk_count,
        extracted_chunk_count=source.extracted_chunk_count,
        failed_chunk_count=source.failed_chunk_count,
        extraction_count=source.extraction_count,
        indexed_count=source.indexed_count,
        ungrounded_count=source.ungrounded_count,
        job_id=str(source.job_id),
        reason=reason(source.reason),
        message=source.message,
        create_time=timestamp(source.create_time),
        update_time=timestamp(source.update_time),
    )


def from_create_result(result: CreateResult) -> source_service_pb2.CreateSourceResult:
    return source_service_pb2.CreateSourceResult(
        source=from_source(result.source) if result.source else None,
        changed=result.changed,
        failure=to_item_failure(result.failure) if result.failure else None,
    )


def from_certificate(certificate: DeletionCertificate) -> source_service_pb2.DeletionCertificate:
    return source_service_pb2.DeletionCertificate(
        fact_count=certificate.fact_count,
        chunk_count=certificate.chunk_count,
        point_count=certificate.point_count,
        cached_result_count=certificate.cached_result_count,
        remaining_point_count=certificate.remaining_point_count,
        fact_digest=certificate.fact_digest,
        gateway_result_count=certificate.forgotten.result_count,
        gateway_dead_letter_count=certificate.forgotten.dead_letter_count,
    )
