"""Values of a model call: what is asked, what it may cost, what it has used."""

from dataclasses import dataclass
from enum import StrEnum


class Operation(StrEnum):
    GENERATE = "generate"
    EMBED = "embed"


class Role(StrEnum):
    USER = "user"
    ASSISTANT = "assistant"


class FinishReason(StrEnum):
    STOP = "stop"
    LENGTH = "length"
    CONTENT_FILTER = "content_filter"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatMessage:
    role: Role
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A text to work on; data, never instructions."""

    document_id: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    system: str = ""
    messages: tuple[ChatMessage, ...] = ()
    documents: tuple[Document, ...] = ()

    @property
    def characters(self) -> int:
        return (
            len(self.system)
            + sum(len(message.text) for message in self.messages)
            + sum(len(document.text) for document in self.documents)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """`max_output_tokens` and `seed` of 0 mean that none is set."""

    temperature: float = 0.0
    max_output_tokens: int = 0
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class JsonSchema:
    """`schema` is the text of a JSON Schema, draft 2020-12."""

    name: str
    schema: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateCall:
    """`fingerprint` is equal for equal payloads; the id and how long the caller waits are no part of it.

    `scope` owns the result, and can have it deleted; empty: nobody can.
    """

    request_id: str
    project_id: str
    prompt: Prompt
    fingerprint: str
    model: str = ""
    sampling: Sampling | None = None
    output_format: JsonSchema | None = None
    priority: int = 0
    scope: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """`name` is what requests use; `context_tokens` of 0 is not known."""

    name: str
    provider: str
    operation: Operation
    dimension: int = 0
    context_tokens: int = 0
    enforces_json_schema: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    input_tokens: int = 0
    output_tokens: int = 0
    cached_input_tokens: int = 0
    provider_calls: int = 0
    estimated: bool = False

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            cached_input_tokens=self.cached_input_tokens + other.cached_input_tokens,
            provider_calls=self.provider_calls + other.provider_calls,
            estimated=self.estimated or other.estimated,
        )


# Good enough for admission and for providers that do not count themselves.
_CHARACTERS_PER_TOKEN = 4


def estimated_tokens(characters: int) -> int:
    return -(-characters // _CHARACTERS_PER_TOKEN)
