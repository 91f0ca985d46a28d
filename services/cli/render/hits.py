"""Search hits: what was found, where it stands, and the words around it."""

from collections.abc import Iterator
from urllib.parse import unquote, urlsplit

from rich.console import RenderableType
from rich.padding import Padding
from rich.text import Text
from scristill.indexer.v1.fact_pb2 import Evidence
from scristill.indexer.v1.search_service_pb2 import SearchHit

from services.cli.output import harmless

CONTEXT = 120
"""Characters of context on either side."""
QUOTE_STYLE = "bold yellow"


def hit_lines(rank: int, hit: SearchHit, *, marked: bool) -> Iterator[RenderableType]:
    """`marked`: the quote stands between asterisks, for where there is no colour."""
    content = hit.content
    head = Text(f"{rank:2}. ", "bold")
    head.append(harmless(content.source_title or name_of(content.source_uri)), "bold cyan")
    head.append(f"  score {hit.score:.3f}", "dim")
    yield head
    yield Padding(quote(content.evidence, marked=marked), (0, 0, 0, 4))
    where = f"{harmless(place(content.source_uri))} [{content.evidence.start}, {content.evidence.end})"
    yield Padding(Text(where, "dim"), (0, 0, 0, 4))


def quote(evidence: Evidence, *, marked: bool) -> Text:
    """The quote in its context, on one line. Contexts are cut at the end that is away from the quote."""
    before, after = _squeeze(evidence.context_before), _squeeze(evidence.context_after)
    mark = "**" if marked else ""
    text = Text(("…" if before else "") + before[-CONTEXT:], "dim")
    text.append(f"{mark}{harmless(evidence.quote)}{mark}", "not dim " + QUOTE_STYLE)
    text.append(after[:CONTEXT] + ("…" if after else ""))
    return text


def name_of(uri: str) -> str:
    """The last part of the path, as a person would write it."""
    parts = urlsplit(uri)
    return unquote(parts.path.rpartition("/")[2]) or parts.netloc or uri


def place(uri: str) -> str:
    """The path of a `file:` URI, any other URI as it is."""
    parts = urlsplit(uri)
    return unquote(parts.path) if parts.scheme == "file" else uri


def _squeeze(context: str) -> str:
    """As `harmless`, but keeps the space towards the quote."""
    if not context.strip():
        return " " if context else ""
    return (" " if context[0].isspace() else "") + harmless(context) + (" " if context[-1].isspace() else "")
