"""Gives out consistency tokens, inside the transaction whose state they stand for."""

from uuid import UUID

from services.extractor.application.ports import Markers
from services.extractor.domain import identity
from services.extractor.domain.token import write_token


async def issue_token(markers: Markers, project_id: UUID) -> str:
    """Empty when there is no such project. The relay must be woken after the commit."""
    marker = identity.marker_id(project_id)
    version = await markers.issue(project_id, marker=marker)
    return "" if version is None else write_token(marker=marker, version=version)
