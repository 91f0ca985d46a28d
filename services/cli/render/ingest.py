"""An ingest while it runs, and what came of it."""

import time
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from types import TracebackType
from typing import Any, Protocol, Self

from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn
from rich.progress import Progress as Bars
from rich.text import Text
from scristill.extractor.v1.source_pb2 import SourceState

from services.cli.documents import document, enum_name
from services.cli.ingest.follow import Progress, Result, reason_of
from services.cli.ingest.outcome import Fate, Outcome, Tally
from services.cli.output import Output, harmless
from services.cli.render.hits import place

Document = dict[str, Any]

LINE_SECONDS = 2.0
MEASURES = ("sources", "chunks", "facts", "indexed")


class Display(Protocol):
    def update(self, progress: Progress) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None: ...


def display(output: Output) -> Display:
    """Bars on a terminal, a line now and then elsewhere; documents with `--json`."""
    if output.mode.json:
        return _Spoken(lambda progress: output.document({"type": "progress", **progress_document(progress)}))
    return _Bars(output) if output.err.is_terminal else _Spoken(lambda progress: output.note(progress_line(progress)))


class _Spoken:
    """Says how far it is at most once in `LINE_SECONDS`, only when something moved, and at the end."""

    def __init__(self, say: Callable[[Progress], None]) -> None:
        self._say = say
        self._latest: Progress | None = None
        self._said: Progress | None = None
        self._said_at = 0.0

    def update(self, progress: Progress) -> None:
        self._latest = progress
        if progress.source_count and time.monotonic() > self._said_at + LINE_SECONDS:
            self._catch_up()

    def _catch_up(self) -> None:
        if self._latest is not None and self._latest != self._said:
            self._said, self._said_at = self._latest, time.monotonic()
            self._say(self._latest)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        self._catch_up()


class _Bars:
    """Rates are means since the start: rich's own forget everything when a total grows."""

    def __init__(self, output: Output) -> None:
        self._bars = Bars(
            TextColumn("{task.description:8}"),
            BarColumn(bar_width=32),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]:>9}", style="dim"),
            TextColumn("{task.fields[left]:>12}", style="dim"),
            console=output.err,
            # Drawn by `update`, on the event loop: no thread of its own.
            auto_refresh=False,
        )
        self._tasks: dict[str, TaskID] = {
            name: self._bars.add_task(name, total=None, rate="", left="") for name in MEASURES
        }
        self._paces = {name: Pace(time.monotonic) for name in MEASURES}

    def update(self, progress: Progress) -> None:
        self._set("sources", progress.source_done, progress.source_count)
        self._set("chunks", progress.chunk_done, progress.chunk_count)
        self._set("facts", progress.fact_count, _expected_facts(progress))
        self._set("indexed", progress.indexed_count, progress.fact_count)
        self._bars.refresh()

    def _set(self, name: str, done: int, total: int) -> None:
        rate, left = self._paces[name].told(done, total)
        self._bars.update(self._tasks[name], completed=done, total=total or None, rate=rate, left=left)

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        self._bars.stop()


class Pace:
    """How fast a count grows, and how long it takes to its total."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._started: tuple[float, int] | None = None

    def told(self, done: int, total: int) -> tuple[str, str]:
        """`12.3/s` and `0:00:07 left`, empty while unknown. What was there at the first call does not count."""
        now = self._clock()
        if self._started is None:
            self._started = (now, done)
        start, base = self._started
        if done <= base or now <= start:
            return "", ""
        rate = (done - base) / (now - start)
        left = timedelta(seconds=round((total - done) / rate)) if total > done else None
        return f"{rate:,.1f}/s", f"{left} left" if left is not None else ""


def _expected_facts(progress: Progress) -> int:
    """As many per chunk as so far: nobody knows before the text is read."""
    if not progress.chunk_done:
        return 0
    return max(progress.fact_count, round(progress.fact_count / progress.chunk_done * progress.chunk_count))


def progress_line(progress: Progress) -> str:
    return (
        f"sources {progress.source_done}/{progress.source_count}  chunks {progress.chunk_done}/{progress.chunk_count}"
        f"  facts {progress.fact_count:,}  indexed {progress.indexed_count:,}"
    )


def progress_document(progress: Progress) -> Document:
    return {name: getattr(progress, name) for name in progress.__dataclass_fields__}


def outcome_document(outcome: Outcome) -> Document:
    return {"type": "path", **{name: getattr(outcome, name) for name in outcome.__dataclass_fields__}}


def exception_lines(tally: Tally, result: Result | None) -> Iterator[Text]:
    """Every path that was skipped or failed, with the reason."""
    for outcome in sorted(tally.exceptions, key=lambda outcome: outcome.path):
        yield _exception(outcome.fate, outcome.path, outcome.reason)
    for source in result.exceptions if result else ():
        state = enum_name(SourceState.DESCRIPTOR, source.state).lower()
        yield _exception(state, place(source.uri), reason_of(source))


def _exception(state: str, path: str, reason: str) -> Text:
    style = "yellow" if state == Fate.SKIPPED else "red"
    return Text.assemble((state.ljust(8), style), f" {harmless(path)}", (f"  {harmless(reason)}", "dim"))


def tally_line(tally: Tally) -> Text:
    hidden = tally.counts[Fate.HIDDEN]
    parts = ", ".join(f"{tally.counts[fate]:,} {fate}" for fate in Fate if fate is not Fate.HIDDEN)
    left_out = f"; {hidden:,} hidden left out" if hidden else ""
    return Text(f"{tally.counts.total() - hidden:,} paths: {parts}{left_out}")


def result_line(result: Result, *, seconds: float) -> Text:
    states = ", ".join(f"{count:,} {state.lower()}" for state, count in sorted(result.states.items()))
    return Text(
        f"{sum(result.states.values()):,} sources: {states or 'none'}; {result.chunk_count:,} chunks, "
        f"{result.fact_count:,} facts, {result.indexed_count:,} indexed, "
        f"{result.ungrounded_count:,} ungrounded left out, {seconds:.1f} s"
    )


def source_documents(result: Result) -> Iterable[Document]:
    return ({"type": "source", **document(source)} for source in result.exceptions)


def summary_document(tally: Tally, result: Result | None, **more: Any) -> Document:
    final = None
    if result is not None:
        final = {
            "states": dict(result.states),
            "chunk_count": result.chunk_count,
            "fact_count": result.fact_count,
            "indexed_count": result.indexed_count,
            "ungrounded_count": result.ungrounded_count,
        }
    return {
        "type": "summary",
        **more,
        "paths": {fate.value: tally.counts[fate] for fate in Fate},
        "complete": tally.complete,
        "result": final,
    }
