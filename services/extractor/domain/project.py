"""Projects: a body of sources that share an extraction schema."""

import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from services.extractor.domain.grounding import GroundingPolicy
from services.extractor.domain.schema import ExtractionSchema

# Raised when prompts or grounding change so that stored chunk results must not be used again.
_PIPELINE_REVISION: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class NewProject:
    """What a client asks for. Without a schema the template's is taken; without both, the default template's."""

    display_name: str
    description: str = ""
    template: str = ""
    schema: ExtractionSchema | None = None
    model: str = ""
    grounding_policy: GroundingPolicy = GroundingPolicy.DROP


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """`revision` is the etag. Counts are zero where they were not asked for."""

    project_id: UUID
    display_name: str
    description: str
    schema: ExtractionSchema
    model: str
    grounding_policy: GroundingPolicy
    revision: int
    create_time: datetime
    update_time: datetime
    source_count: int = 0
    extraction_count: int = 0

    @property
    def question(self) -> str:
        """Fingerprint of what a model is asked beside the text: part of the identity of every model call."""
        return _digest(_PIPELINE_REVISION, self.schema.fingerprint, self.model)

    @property
    def fingerprint(self) -> str:
        """Of all that decides a chunk's result beside its text: the question, and what is made of the answer."""
        reading = [
            (group.name, *group.key_fields, "/", group.statement_field, group.entities) for group in self.schema.groups
        ]
        return _digest(self.question, self.grounding_policy, *reading)


def _digest(*parts: object) -> str:
    return hashlib.sha256("\x1f".join(map(str, parts)).encode()).hexdigest()[:32]
