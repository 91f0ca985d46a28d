"""One function per format; runs inside a converter process, imports a parser only when it is needed."""

import codecs
import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final, cast
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from pypdfium2 import PdfTextPage

PLAIN: Final = "text/plain"
MARKDOWN: Final = "text/markdown"
HTML: Final = "text/html"
PDF: Final = "application/pdf"
DOCX: Final = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"

_BY_SUFFIX: Final = {
    ".md": MARKDOWN,
    ".markdown": MARKDOWN,
    ".htm": HTML,
    ".html": HTML,
    ".xhtml": HTML,
    ".pdf": PDF,
    ".docx": DOCX,
}
_BYTE_ORDER_MARKS: Final = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_HTML_START: Final = re.compile(
    rb"\s*(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)?<(?:!doctype\s+html|html)\b", re.IGNORECASE | re.DOTALL
)
_HEADING: Final = re.compile(r"^#{1,6}[ \t]+(\S.*?)[ \t#]*$", re.MULTILINE)
_CONTROL: Final = re.compile("[\x00-\x08\x0e-\x1f\x7f]")
_MAX_CONTROL_SHARE: Final = 0.01
_SNIFFED_BYTES: Final = 65536
# Share of the longest line that a line inside a paragraph fills at least.
_FILLED: Final = 0.75


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a converter process answers; `problem` is one sentence for a person when there is no text."""

    media_type: str
    text: str = ""
    title: str = ""
    problem: str = ""


def convert(data: bytes, *, media_type: str, uri: str) -> Outcome:
    """Never raises for bad documents: parsers fail in many ways, and all of them mean `problem`."""
    kind = detect(data, media_type=media_type, uri=uri)
    reader = _READERS.get(kind) or (_read_text if kind.startswith("text/") else None)
    if reader is None:
        return Outcome(media_type=kind, problem=f"{kind} is not a format that can be read")
    try:
        return reader(data, kind)
    except Exception as error:  # noqa: BLE001 - the parsers' own trees of errors are open-ended
        return Outcome(media_type=kind, problem=f"the document is damaged ({type(error).__name__})")


def detect(data: bytes, *, media_type: str, uri: str) -> str:
    """The media type: what the bytes say, else what the client says, else what the name says."""
    if data.startswith(b"%PDF-"):
        return PDF
    if data.startswith(b"PK\x03\x04"):
        return DOCX if b"word/" in data else "application/zip"
    stated = media_type.partition(";")[0].strip().lower()
    if stated in (HTML, "application/xhtml+xml") or _HTML_START.match(data[:2048]):
        return HTML
    if stated in (PDF, DOCX):
        return stated
    named = _BY_SUFFIX.get(PurePosixPath(unquote(urlsplit(uri).path)).suffix.lower())
    if named and stated in ("", PLAIN, "application/octet-stream"):
        return named
    return stated if stated.startswith("text/") else PLAIN


def _read_text(data: bytes, kind: str) -> Outcome:
    text = _decode(data)
    if text is None:
        return Outcome(media_type="application/octet-stream", problem="the source is binary")
    heading = _HEADING.search(text) if kind == MARKDOWN else None
    return Outcome(media_type=kind, text=text, title=heading.group(1) if heading else "")


def _decode(data: bytes) -> str | None:
    """Text of any common encoding; None for binary data."""
    for mark, encoding in _BYTE_ORDER_MARKS:
        if data.startswith(mark):
            return data.decode(encoding, errors="replace")
    sample = data[:_SNIFFED_BYTES]
    if b"\x00" in sample:
        return None
    try:
        text = data.decode()
    except UnicodeDecodeError:
        from charset_normalizer import from_bytes  # noqa: PLC0415 - only for the rare legacy file

        guess = from_bytes(sample).best()
        if guess is None:
            return None
        text = data.decode(guess.encoding, errors="replace")
    beginning = text[:_SNIFFED_BYTES]
    return None if len(_CONTROL.findall(beginning)) > _MAX_CONTROL_SHARE * len(beginning) else text


def _read_html(data: bytes, kind: str) -> Outcome:
    import trafilatura  # noqa: PLC0415 - costs 50 MB that text files need not pay

    tree = trafilatura.load_html(data)
    if tree is None:
        return Outcome(media_type=kind, problem="the document is not HTML")
    text = trafilatura.extract(tree, output_format="markdown", include_comments=False, include_tables=True)
    meta = trafilatura.extract_metadata(tree)
    title = str(meta.title or "") if meta else ""
    if not text:
        text = "\n".join(cast("Iterator[str]", tree.itertext()))  # pyright: ignore[reportUnknownMemberType]
    return Outcome(media_type=kind, text=text, title=title)


def _read_pdf(data: bytes, kind: str) -> Outcome:
    import pypdfium2  # noqa: PLC0415

    document = pypdfium2.PdfDocument(data)
    try:
        pages = [_page_text(page.get_textpage()) for page in document]
        title = str(document.get_metadata_dict().get("Title") or "")
    finally:
        document.close()
    if not any(page.strip() for page in pages):
        return Outcome(media_type=kind, problem="the PDF has no text layer")
    text = "\n\n".join(_reflowed(page) for page in _without_furniture(pages))
    return Outcome(media_type=kind, text=text, title=title)


def _page_text(page: "PdfTextPage") -> str:
    text: str = page.get_text_bounded()  # pyright: ignore[reportUnknownMemberType]
    return text.replace("\r\n", "\n")


def _without_furniture(pages: list[str]) -> list[str]:
    """Drops running headers, footers and page numbers: edge lines that recur on most pages, digits aside."""
    if len(pages) < 2:  # noqa: PLR2004
        return pages
    edges = [{_digitless(line) for line in _edge_lines(page)} for page in pages]
    recurring = {line for line in set[str]().union(*edges) if sum(line in edge for edge in edges) > len(pages) / 2}
    return [
        "\n".join(
            line for line in page.split("\n") if not (line in _edge_lines(page) and _digitless(line) in recurring)
        )
        for page in pages
    ]


def _edge_lines(page: str) -> list[str]:
    lines = [line for line in page.split("\n") if line.strip()]
    return [*lines[:2], *lines[-2:]]


def _digitless(line: str) -> str:
    return re.sub(r"\d+", "0", line.strip())


def _reflowed(page: str) -> str:
    """Joins the lines of a paragraph: a line that fills its measure goes on in the next one, unless that is a title."""
    lines = [line.strip() for line in page.split("\n")]
    measure = max((len(line) for line in lines), default=0)
    text = ""
    for line in lines:
        if text and not text.endswith("\n") and _is_title(line, measure):
            text += "\n\n"
        if not text or text.endswith("\n"):
            text += line
        elif re.search(r"[^\W\d_]-$", text) and re.match(r"[a-zà-ÿ]", line):
            text = text[:-1] + line
        else:
            text += " " + line
        if len(line) < _FILLED * measure:
            text = text.rstrip() + "\n\n"
    return text.strip()


def _is_title(line: str, measure: int) -> bool:
    return len(line) < measure / 2 and re.fullmatch(r"[A-ZÀ-Þ0-9].*[^.,;:!?…]", line) is not None


def _read_docx(data: bytes, kind: str) -> Outcome:
    import docx  # noqa: PLC0415
    from docx.table import Table  # noqa: PLC0415

    document = docx.Document(io.BytesIO(data))
    blocks: list[str] = []
    title = str(document.core_properties.title or "")
    for block in document.iter_inner_content():
        if isinstance(block, Table):
            blocks += [" | ".join(cell.text.strip() for cell in row.cells) for row in block.rows]
            continue
        style = (block.style.name if block.style else None) or ""
        level = re.fullmatch(r"Heading (\d)", style)
        if style == "Title" and not title:
            title = block.text
        marker = "# " if style == "Title" else "#" * int(level.group(1)) + " " if level else ""
        marker = "- " if style.startswith("List") else marker
        if block.text.strip():
            blocks.append(marker + block.text.strip())
    return Outcome(media_type=kind, text="\n\n".join(blocks), title=title)


_READERS: Final[dict[str, Callable[[bytes, str], Outcome]]] = {
    PLAIN: _read_text,
    MARKDOWN: _read_text,
    HTML: _read_html,
    PDF: _read_pdf,
    DOCX: _read_docx,
}
