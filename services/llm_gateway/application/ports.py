"""What the use cases need from the world: providers, the store of results, the ledger, limits."""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from services.llm_gateway.domain.calls import FinishReason, JsonSchema, ModelInfo, Prompt, Sampling, Usage
from services.llm_gateway.domain.frames import Frame
from services.llm_gateway.domain.records import DeadLetter, UsageRow
from services.shared.errors import ServiceError


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What one attempt asks a provider."""

    prompt: Prompt
    sampling: Sampling | None
    output_format: JsonSchema | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Finish:
    """Last piece of an answer. `usage` is None when the provider does not count."""

    reason: FinishReason
    usage: Usage | None


class GenerationProvider(Protocol):
    """Answers questions with one model.

    `generate` yields text as it comes, what arrived together as one string, then exactly
    one `Finish`. An answer that breaks off raises `ProviderFailure`. Closing the
    generator, or cancelling its task, ends the call to the model at once.
    """

    @property
    def model(self) -> ModelInfo: ...

    @property
    def takes_corrections(self) -> bool:
        """Whether telling the model what was wrong can give another answer."""
        ...

    def generate(self, question: Question) -> AsyncGenerator[str | Finish]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Vectors:
    """One row per text: `dimension` little-endian 32-bit floats of Euclidean norm 1; empty for a text without words."""

    rows: Sequence[bytes]
    dimension: int
    usage: Usage


class EmbeddingProvider(Protocol):
    """Turns texts into vectors with one model. Texts are not empty."""

    @property
    def model(self) -> ModelInfo: ...

    async def embed(self, texts: Sequence[str]) -> Vectors: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """How one attempt went. `first_token_seconds` is None when no token came, or for vectors."""

    usage: Usage
    seconds: float
    first_token_seconds: float | None
    throttled: bool
    failed: bool


class CallObserver(Protocol):
    """Learns how calls to one model go."""

    def attempt_ended(self, sample: Sample) -> None: ...


class ConcurrencyLimit(Protocol):
    """How many calls to one model may run at a time; may change with every sample."""

    @property
    def limit(self) -> int: ...

    def record(self, sample: Sample) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The run ended with an error; whoever asks again runs it anew."""

    error: ServiceError


@dataclass(frozen=True, slots=True, kw_only=True)
class HandedOver:
    """The owner has given the call up; the next to ask runs it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelRequested:
    """The last one who followed from elsewhere has left."""


Record = Frame | Failed | HandedOver | CancelRequested


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """The call is ours to run. `fence` grows with every run; `attempts` were made by runs before."""

    fence: int
    attempts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningElsewhere:
    """Another replica runs it. `position` is where its records begin, `fence` which run it is."""

    fence: int
    position: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """The call has ended well; all its records."""

    fence: int
    records: Sequence[Record]


class ResultStore(Protocol):
    """Results and running calls, shared by the replicas.

    A running call is held by a lease that every `append` renews. A claim whose lease has
    expired is given to the next one who asks, with a higher fence; every write of the
    former holder fails from then on. All methods raise `Unavailable` when the store is away.
    """

    @property
    def lease_seconds(self) -> float: ...

    @property
    def now(self) -> str:
        """The position after everything that is there already."""
        ...

    async def claim(
        self, request_id: str, *, fingerprint: str, owner: str, scope: str = ""
    ) -> Claimed | RunningElsewhere | Stored:
        """`owner` holds the claim or follows the run. Raises `RequestIdReused` for another payload than before, and
        `ScopeDeleted`.
        """
        ...

    async def append(self, request_id: str, *, fence: int, number: int, records: Sequence[Record]) -> bool:
        """Stores records and renews the lease. False when the fence is no longer the current one.

        `number` counts the writes of a run from 1; the same number stores nothing again. `Done` and `Failed` end the
        run.
        """
        ...

    async def abandon(self, request_id: str, *, fence: int) -> bool:
        """Gives the run up unless somebody follows it. Returns whether it did."""
        ...

    async def release(self, request_id: str, *, owner: str) -> None:
        """Gives the run up for others to claim, if `owner` still holds it."""
        ...

    async def leave(self, request_id: str, *, owner: str) -> None:
        """`owner` follows no longer. The last to leave a run that its own callers have left asks to cancel it."""
        ...

    async def delete_scope(self, scope: str) -> int:
        """Removes all of the scope's calls; their runs lose their fence, and `claim` refuses them.

        Returns how many of all calls that were ever removed so had a result, whole or partial.
        """
        ...

    def follow(self, request_id: str, *, position: str) -> AsyncGenerator[Sequence[Record]]:
        """Records after `position` as they come, an empty batch for a renewal; never ends by itself."""
        ...


class UsageLedger(Protocol):
    """Counts what was used. `record` only takes note; storing happens in the background, a moment later."""

    def record(self, *, project_id: str, model: str, usage: Usage) -> None: ...

    async def rows(self, *, project_id: str, start: datetime, end: datetime) -> Sequence[UsageRow]:
        """By project, then model; of all projects when none is named. Whole hours: those that `start` and `end` lie in
        are counted in full."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetterPage:
    """`next_position` is empty on the last page."""

    letters: Sequence[DeadLetter]
    next_position: str


class DeadLetterStore(Protocol):
    async def put(self, letter: DeadLetter) -> None:
        """Keeps the letter, with the attempts of one with the same request id; not when its scope was deleted."""
        ...

    async def get(self, request_ids: Sequence[str]) -> dict[str, DeadLetter]: ...

    async def page(self, *, project_id: str, size: int, after: str) -> DeadLetterPage:
        """Newest first; of all projects when none is named."""
        ...

    async def delete(self, request_ids: Sequence[str]) -> int:
        """How many of them existed."""
        ...

    async def delete_scope(self, scope: str) -> int:
        """Removes the letters of the scope, and keeps no more of them. Returns how many were ever removed so."""
        ...


class OutputChecker(Protocol):
    """Checks structured output. Both methods raise `InvalidRequest` when the schema itself is not valid."""

    def require_valid(self, schema: JsonSchema) -> None: ...

    def check(self, output: str, schema: JsonSchema) -> "Verdict": ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """`repaired` is the output made whole, empty when it was right as it stood. `problem` is None when it is valid."""

    repaired: str = ""
    problem: "Problem | None" = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Where the output breaks the schema (a JSON pointer) and how, for the model to correct."""

    path: str
    description: str
