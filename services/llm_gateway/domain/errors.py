"""What can go wrong with a model call.

Errors that callers see:

    ServiceError
    ├── ModelNotFound          NOT_FOUND            MODEL_NOT_FOUND
    ├── ProviderRefused        FAILED_PRECONDITION  PROVIDER_REFUSED
    ├── OutputInvalid          FAILED_PRECONDITION  OUTPUT_INVALID
    ├── ScopeDeleted           FAILED_PRECONDITION  SCOPE_DELETED
    ├── ProviderUnavailable    UNAVAILABLE          PROVIDER_UNAVAILABLE
    └── TextEmpty              INVALID_ARGUMENT     TEXT_EMPTY

What a provider adapter raises, for the retry policy to judge:

    ProviderError
    ├── ProviderRejection      asking again cannot help
    └── ProviderFailure        asking again may help; holds `Retry-After`
"""

from datetime import timedelta

from services.shared.errors import InvalidRequest, NotFound, PreconditionFailed, Reason, Unavailable


class ModelNotFound(NotFound):
    reason = Reason.MODEL_NOT_FOUND

    @classmethod
    def named(cls, model: str) -> "ModelNotFound":
        return cls(f"model {model} is not known to the gateway", metadata={"model": model})


class ProviderRefused(PreconditionFailed):
    reason = Reason.PROVIDER_REFUSED


class OutputInvalid(PreconditionFailed):
    reason = Reason.OUTPUT_INVALID

    @classmethod
    def at(cls, path: str, *, schema: str) -> "OutputInvalid":
        return cls(
            f"the output does not match the schema {schema} at {path or '/'}",
            metadata={"schema": schema, "path": path or "/"},
        )


class ScopeDeleted(PreconditionFailed):
    reason = Reason.SCOPE_DELETED

    @classmethod
    def of(cls, scope: str) -> "ScopeDeleted":
        return cls(f"the scope {scope} was deleted, with all its results", metadata={"scope": scope})


class ProviderUnavailable(Unavailable):
    reason = Reason.PROVIDER_UNAVAILABLE


class TextEmpty(InvalidRequest):
    reason = Reason.TEXT_EMPTY


class ProviderError(Exception):
    """A failed call to a provider. `explanation` is one sentence without secrets or exception text.

    `output` is what had come until then.
    """

    def __init__(self, explanation: str, *, status: int = 0) -> None:
        super().__init__(explanation)
        self.explanation = explanation
        self.status = status
        self.output = ""


class ProviderRejection(ProviderError):
    def refused(self, provider: str) -> ProviderRefused:
        return ProviderRefused(
            f"{provider}: {self.explanation}", metadata={"provider": provider, "provider_status": self.status}
        )


class ProviderFailure(ProviderError):
    """`retry_after` is a hard gate: no call before it. `throttled` says that the provider limits the rate."""

    def __init__(
        self,
        explanation: str,
        *,
        status: int = 0,
        retry_after: timedelta | None = None,
        throttled: bool = False,
    ) -> None:
        super().__init__(explanation, status=status)
        self.retry_after = retry_after
        self.throttled = throttled

    def unavailable(self, provider: str, *, attempts: int) -> ProviderUnavailable:
        return ProviderUnavailable(
            f"{provider} failed after {attempts} attempt(s): {self.explanation}",
            metadata={"provider": provider, "provider_status": self.status, "attempts": attempts},
            retry_delay=self.retry_after,
        )
