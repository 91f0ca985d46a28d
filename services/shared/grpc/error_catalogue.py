"""Renders `docs/errors.md` from the comments of `error_reason.proto`, where the reasons are documented.

python -m services.shared.grpc.error_catalogue > docs/errors.md
"""

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from services.shared.errors import Code

PROTO = Path(__file__).parents[3] / "protos" / "scristill" / "errors" / "v1" / "error_reason.proto"

_VALUE = re.compile(r"((?:^ *//.*\n)+) *ERROR_REASON_(\w+) = \d+;", re.MULTILINE)
_CODE = re.compile(rf"\b({'|'.join(code.name for code in Code)})\b")

_HEAD = """\
# Errors

Rendered from `protos/scristill/errors/v1/error_reason.proto`; change it there.

Every failed call carries one `google.rpc.ErrorInfo` with a reason of this page and the domain `scristill.dev`.
`BadRequest`, `PreconditionFailure`, `QuotaFailure` and `RetryInfo` come along where they apply. Items of a batch
carry the same reasons in `scristill.errors.v1.ItemFailure`.

- Treat a reason that you do not know by its status code alone.
- Send a call again by itself only for UNAVAILABLE; for RESOURCE_EXHAUSTED after the delay in `RetryInfo`.
- CANCELLED without an `ErrorInfo`, and not asked for, means the same as UNAVAILABLE: the server stopped before it had
  begun the call, or while it ran.
- INTERNAL comes with an `incident_id`; the traceback stands in the server's log under that id, and nowhere else.

| reason | status code |
|---|---|
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    reason: str
    text: str
    example: str

    @property
    def code(self) -> str:
        """The status code that the text names first; a reason of an item or a job names none."""
        found = _CODE.search(self.text)
        return found[1] if found else "–"


def entries(proto: str) -> Iterator[Entry]:
    """One per reason that is ever sent, in the order of the file."""
    for comment, reason in _VALUE.findall(proto):
        lines = [line.strip().removeprefix("//")[1:] for line in comment.splitlines()]
        example = "".join(line.strip() for line in lines if line.startswith("    "))
        text = " ".join(line for line in lines if line and not line.startswith("    "))
        if example:
            yield Entry(reason=reason, text=text, example=json.dumps(json.loads(example), ensure_ascii=False))


def render(proto: str) -> str:
    found = list(entries(proto))
    rows = "".join(f"| [{entry.reason}](#{entry.reason.lower()}) | {entry.code} |\n" for entry in found)
    sections = "".join(f"\n## {entry.reason}\n\n{entry.text}\n\n```json\n{entry.example}\n```\n" for entry in found)
    return f"{_HEAD}{rows}{sections}"


if __name__ == "__main__":
    sys.stdout.write(render(PROTO.read_text()))
