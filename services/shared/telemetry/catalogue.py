"""Keeps the metric tables of `docs/telemetry.md` in step with the code.

    python -m services.shared.telemetry.catalogue

reads every `"scristill_…", "description"` pair of the services and rewrites the part of the
page between its two markers.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "telemetry.md"

_BEGIN, _END = "<!-- metrics: rendered by services/shared/telemetry/catalogue.py -->", "<!-- end of metrics -->"
# A name, then one or more adjacent literals.
_METRIC = re.compile(r'"(scristill_\w+)",\s*((?:"(?:[^"\\]|\\.)*"\s*)+)')


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Metric:
    service: str
    name: str
    description: str


def metrics(services: Path) -> Iterator[Metric]:
    for file in sorted(services.rglob("*.py")):
        for name, description in _METRIC.findall(file.read_text()):
            yield Metric(
                service=file.relative_to(services).parts[0],
                name=name,
                description=ast.literal_eval(f"({description})"),
            )


def render(page: str, found: list[Metric]) -> str:
    """The page with its tables replaced."""
    head, _, rest = page.partition(_BEGIN)
    tail = rest.partition(_END)[2]
    sections = [_section(service, found) for service in sorted({metric.service for metric in found}, key=_shared_first)]
    return f"{head}{_BEGIN}\n\n{''.join(sections)}{_END}{tail}"


def _section(service: str, found: list[Metric]) -> str:
    title = "Every service" if service == "shared" else f"`{service}`"
    rows = "".join(
        f"| `{metric.name}` | {metric.description} |\n" for metric in sorted(set(found)) if metric.service == service
    )
    return f"### {title}\n\n| metric | meaning |\n|---|---|\n{rows}\n"


def _shared_first(service: str) -> tuple[bool, str]:
    return service != "shared", service


if __name__ == "__main__":
    PAGE.write_text(render(PAGE.read_text(), list(metrics(ROOT / "services"))))
