"""Where a command's words go: results to standard output, progress and remarks to standard error.

With `--json` standard output carries JSON only. Text from documents is made harmless first: it may hold escape
sequences, and a terminal would obey them.
"""

import sys
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TextIO

import orjson
from rich.console import Console, RenderableType

PIPE_WIDTH = 4096
"""Into a pipe, lines are not folded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mode:
    json: bool = False
    verbose: bool = False
    debug: bool = False


class Output:
    def __init__(self, mode: Mode, *, stdout: TextIO | None = None, stderr: TextIO | None = None) -> None:
        self.mode = mode
        self._stdout = stdout or sys.stdout
        self.out = console(self._stdout)
        self.err = console(stderr or sys.stderr)

    def document(self, document: Mapping[str, Any]) -> None:
        """One line of JSON, with `--json` only."""
        if self.mode.json:
            self._stdout.write(orjson.dumps(document).decode() + "\n")
            self._stdout.flush()

    def show(self, *renderables: RenderableType) -> None:
        """For people: nothing with `--json`."""
        if not self.mode.json:
            for renderable in renderables:
                self._print(renderable)

    def _print(self, renderable: RenderableType) -> None:
        if self.out.is_terminal:
            self.out.print(renderable, soft_wrap=isinstance(renderable, str))
            return
        with self.out.capture() as captured:
            self.out.print(renderable, soft_wrap=isinstance(renderable, str))
        # Rich pads each line to the width, which is that of no terminal here.
        self._stdout.write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))

    def note(self, text: str) -> None:
        """On standard error, in any mode."""
        self.err.print(text, soft_wrap=True)

    def detail(self, text: str) -> None:
        """On standard error, with `--verbose` only."""
        if self.mode.verbose:
            self.note(text)


def console(stream: TextIO) -> Console:
    # Markup, emoji codes and highlighting would change what documents and file names say.
    terminal = stream.isatty()
    return Console(
        file=stream, markup=False, emoji=False, highlight=False, width=None if terminal else PIPE_WIDTH, soft_wrap=False
    )


def harmless(text: str) -> str:
    """`text` on one line, with control and direction-changing characters replaced."""
    return "".join(_harmless(character) for character in " ".join(text.split()))


def _harmless(character: str) -> str:
    if character.isascii():
        return character if character.isprintable() else "\N{REPLACEMENT CHARACTER}"
    category = unicodedata.category(character)
    if category in ("Cc", "Cs") or unicodedata.bidirectional(character) in _DIRECTING:
        return "\N{REPLACEMENT CHARACTER}"
    return character


_DIRECTING = frozenset({"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"})
