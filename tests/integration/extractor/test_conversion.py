"""The converter on real documents, in its real processes."""

import asyncio
import io
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import docx
import psutil
import pytest
import pytest_asyncio

from deploy.local.families import is_alive
from services.extractor.adapters.conversion import DocumentConverter, formats
from services.extractor.domain.errors import SourceEmpty, SourceUnreadable
from tests.support.waiting import eventually

CORPUS = Path("deploy/demo/corpus")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def converter() -> AsyncIterator[DocumentConverter]:
    async with DocumentConverter() as running:
        yield running


async def _convert(converter: DocumentConverter, data: bytes, *, name: str = "a", media_type: str = "") -> str:
    return (await converter.convert(data, media_type=media_type, uri=f"file:///{name}")).text


async def test_text_in_common_encodings_reads_the_same(converter: DocumentConverter) -> None:
    text = "Grüße aus Köln — 10 € für den Rhein, sagte Jürgen Müller aus Düsseldorf."

    for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-32", "cp1252"):
        assert await _convert(converter, text.encode(encoding)) == text


async def test_binary_data_is_named_as_such(converter: DocumentConverter) -> None:
    with pytest.raises(SourceUnreadable, match="binary") as caught:
        await _convert(converter, bytes(range(256)) * 20, name="b.txt")

    assert caught.value.metadata["uri"] == "file:///b.txt"


@pytest.mark.parametrize("data", [b"", b" \n\t", b"\xef\xbb\xbf\n"])
async def test_a_blank_source_is_empty(converter: DocumentConverter, data: bytes) -> None:
    with pytest.raises(SourceEmpty):
        await _convert(converter, data)


@pytest.mark.parametrize(
    ("data", "name"),
    [(b"%PDF-1.7 broken", "a.pdf"), (b"PK\x03\x04word/ broken", "a.docx"), (b"PK\x03\x04 other", "a.zip")],
)
async def test_damaged_and_unknown_formats_are_unreadable(converter: DocumentConverter, data: bytes, name: str) -> None:
    with pytest.raises(SourceUnreadable):
        await _convert(converter, data, name=name)


async def test_html_keeps_its_text_and_loses_its_navigation(converter: DocumentConverter) -> None:
    converted = await converter.convert(
        (CORPUS / "hartwell-seed-bank.html").read_bytes(), media_type="", uri="file:///x"
    )

    assert converted.media_type == formats.HTML
    assert converted.title == "Inside the Hartwell Seed Bank"
    assert "cookie" not in converted.text.lower()


async def test_pdf_lines_become_paragraphs_and_page_furniture_goes(converter: DocumentConverter) -> None:
    text = await _convert(converter, (CORPUS / "amsbury-glass-workshop.pdf").read_bytes())

    assert "is an archaeological site in Wiltshire, England. The farmer Ralph Dunstan discovered it" in text
    assert "Page 2" not in text
    assert "\n\nThe workshop\n\n" in text


async def test_docx_headings_lists_and_tables_become_markdown(converter: DocumentConverter) -> None:
    document = docx.Document()
    document.add_heading("Ships", level=2)
    document.add_paragraph("Concordia", style="List Bullet")
    row = document.add_table(rows=1, cols=2).rows[0].cells
    row[0].text, row[1].text = "tons", "900"
    stream = io.BytesIO()
    document.save(stream)

    assert await _convert(converter, stream.getvalue()) == "## Ships\n\n- Concordia\n\ntons | 900"


async def test_a_converter_that_dies_harms_only_its_document() -> None:
    threads = set(threading.enumerate())
    others = set(psutil.Process().children())
    async with DocumentConverter() as converter:
        assert await _convert(converter, b"first") == "first"
        # The last child need not be the newest: numbers of processes begin anew.
        (worker,) = [
            p for p in psutil.Process().children() if p not in others and "spawn_main" in " ".join(p.cmdline())
        ]
        pending = asyncio.create_task(_convert(converter, b"x" * 30_000_000))
        await asyncio.sleep(0)
        os.kill(worker.pid, signal.SIGKILL)

        with pytest.raises(SourceUnreadable, match="crash"):
            await pending
        assert await _convert(converter, b"second") == "second"
    # One that waits for the dead process would keep this one from ending.
    await eventually(lambda: not [each for each in set(threading.enumerate()) - threads if "Feeder" in each.name])


async def test_a_document_that_takes_too_long_is_given_up() -> None:
    async with DocumentConverter(timeout=timedelta(milliseconds=1)) as converter:
        with pytest.raises(SourceUnreadable, match="too long"):
            await _convert(converter, b"slow enough: the process has to start first")


async def test_converters_do_not_outlive_a_service_that_is_killed() -> None:
    program = (
        "import asyncio\n"
        "from services.extractor.adapters.conversion import DocumentConverter\n"
        "async def main():\n"
        "    async with DocumentConverter() as converter:\n"
        "        await converter.convert(b'text', media_type='', uri='file:///a')\n"
        "        print('ready', flush=True)\n"
        "        await asyncio.sleep(3600)\n"
        "if __name__ == '__main__':\n"
        "    asyncio.run(main())\n"
    )
    service = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE)
    assert service.stdout is not None
    assert await service.stdout.readline() == b"ready\n"
    children = psutil.Process(service.pid).children(recursive=True)
    assert children

    service.kill()

    await eventually(lambda: not [child for child in children if is_alive(child)])
    await service.wait()
