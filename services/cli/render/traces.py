"""A trace as a tree."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from rich.text import Text
from rich.tree import Tree

from deploy.local.traces.reader import Node
from services.cli.output import harmless

Document = dict[str, Any]


def tree(roots: Sequence[Node], *, alike: int) -> Iterable[Tree]:
    """One per root. Of siblings with the same name only the first `alike` are shown, the rest counted; 0 shows all."""
    first = min((root.span.start for root in roots), default=0)
    for root in roots:
        made = Tree(_label(root, first), guide_style="dim")
        _grow(made, root.children, first, alike)
        yield made


def span_documents(roots: Iterable[Node]) -> list[Document]:
    return [_document(root) for root in roots]


def _grow(branch: Tree, children: Sequence[Node], first: int, alike: int) -> None:
    shown: Counter[tuple[str, str]] = Counter()
    hidden: Counter[tuple[str, str]] = Counter()
    for child in children:
        kind = (child.span.service, child.span.name)
        if alike and shown[kind] >= alike:
            hidden[kind] += 1
            continue
        shown[kind] += 1
        _grow(branch.add(_label(child, first)), child.children, first, alike)
    for (service, name), count in hidden.items():
        branch.add(Text(f"… {count} more: {_service(service)} {harmless(name)}", "dim"))


def _label(node: Node, first: int) -> Text:
    span = node.span
    label = Text("⇢ " if node.linked else "")
    label.append(_service(span.service), "cyan")
    label.append(f" {harmless(_name(span.name))}")
    label.append(f"  {span.milliseconds:,.1f} ms", "bold")
    label.append(f"  +{(span.start - first) / 1e6:,.0f} ms", "dim")
    if span.status == "error":
        label.append(f"  {harmless(span.message) or 'error'}", "red")
    return label


def _service(name: str) -> str:
    return harmless(name.removeprefix("scristill-"))


def _name(name: str) -> str:
    """`scristill.extractor.v1.SourceService/CreateSources` without its package."""
    service, slash, method = name.rpartition("/")
    return f"{service.rpartition('.')[2]}{slash}{method}" if slash else name


def _document(node: Node) -> Document:
    span = node.span
    return {
        "trace_id": span.trace_id,
        "span_id": span.span_id,
        "service": span.service,
        "name": span.name,
        "kind": span.kind,
        "linked": node.linked,
        "start_unix_nano": span.start,
        "duration_ms": span.milliseconds,
        "status": span.status,
        "message": span.message,
        "attributes": dict(span.attributes),
        "children": span_documents(node.children),
    }
