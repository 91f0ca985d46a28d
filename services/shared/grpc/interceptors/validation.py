"""Checks every request message against the rules that stand in its proto (`buf.validate`)."""

from collections.abc import Sequence

from google.protobuf.message import Message
from protovalidate import Validator, Violation

from services.shared.errors import FieldViolation, InvalidRequest


class RequestValidator:
    """Refuses a message that breaks its rules with INVALID_ARGUMENT and a `BadRequest` per field.

    Works on each message of a client stream too, where the error surfaces in the
    handler's own `async for`.
    """

    def __init__(self) -> None:
        self._validator = Validator()

    def __call__(self, message: Message) -> None:
        violations = self._validator.collect_violations(message)
        if violations:
            raise invalid_request(violations)


def invalid_request(violations: Sequence[Violation]) -> InvalidRequest:
    found = [
        FieldViolation(field=_path(violation) or "(message)", description=_description(violation))
        for violation in violations
    ]
    return InvalidRequest(
        f"{found[0].field}: {found[0].description}" + (f", and {len(found) - 1} more" if len(found) > 1 else ""),
        metadata={"violation_count": len(found)},
        field_violations=found,
    )


def _path(violation: Violation) -> str:
    """`jobs[3].labels["a"]`, as `BadRequest` wants it."""
    parts: list[str] = []
    field = violation.proto.field
    for element in field.elements if field else ():
        subscript = element.subscript
        suffix = "" if subscript is None else f"[{_key(subscript.value)}]"
        parts.append(f"{element.field_name}{suffix}")
    return ".".join(parts)


def _key(value: str | int) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)


def _description(violation: Violation) -> str:
    return violation.proto.message or violation.proto.rule_id
