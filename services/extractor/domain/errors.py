"""What can go wrong in the extractor's own terms.

ServiceError
└── ExtractorError
    ├── SourceUnreadable    INVALID_ARGUMENT    SOURCE_UNREADABLE
    ├── SourceEmpty         INVALID_ARGUMENT    SOURCE_EMPTY
    ├── SchemaInvalid       INVALID_ARGUMENT    SCHEMA_INVALID
    └── StaleHolder         FAILED_PRECONDITION LEASE_LOST
"""

from services.shared.errors import Code, Reason, ServiceError


class ExtractorError(ServiceError):
    """Root of the tree; abstract."""


class SourceUnreadable(ExtractorError):
    """The bytes cannot be read as text: unknown or damaged format, or binary."""

    code = Code.INVALID_ARGUMENT
    reason = Reason.SOURCE_UNREADABLE


class SourceEmpty(ExtractorError):
    """The source holds no text."""

    code = Code.INVALID_ARGUMENT
    reason = Reason.SOURCE_EMPTY


class SchemaInvalid(ExtractorError):
    """An extraction schema breaks a rule; `group` in the metadata says where."""

    code = Code.INVALID_ARGUMENT
    reason = Reason.SCHEMA_INVALID


class StaleHolder(ExtractorError):
    """A newer lease works on the source version, or the version is gone. Nothing was changed."""

    code = Code.FAILED_PRECONDITION
    reason = Reason.LEASE_LOST

    def __init__(self, message: str = "a newer lease holds the source version") -> None:
        super().__init__(message)
