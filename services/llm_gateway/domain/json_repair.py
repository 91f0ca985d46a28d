"""Makes almost-JSON whole where that needs no guessing.

Models wrap JSON in prose or code fences, forget or double commas, write Python's
literals, or break off at the token limit. Text around the first object or array is
dropped and commas are set anew. Of a text that breaks off, everything up to the last
whole element of a list, or the last whole field of the outermost object, is kept and
closed; nothing is invented.
"""

import re

_FENCE = re.compile(r"```(?:json)?\s*(.*?)(?:```|\Z)", re.DOTALL)
_OPENING = re.compile(r"[{\[]")
_TOKEN = re.compile(r'\s*(?:("(?:[^"\\]|\\.)*")|([{\[])|([}\]])|(:)|(,)|([\w.+-]+))', re.DOTALL)

_CLOSING = {"{": "}", "[": "]"}
_LITERALS = {"True": "true", "False": "false", "None": "null", "NaN": "null", "undefined": "null"}
_CONTROL = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def repaired(text: str) -> str | None:
    """A text that is more likely JSON; None when there is no object or array in it."""
    fenced = _FENCE.search(text)
    body = fenced.group(1) if fenced else text
    start = _OPENING.search(body)
    return _Rebuilder().rebuild(body, start.start()) if start else None


class _Rebuilder:
    def __init__(self) -> None:
        self._out: list[str] = []
        self._open: list[str] = []
        self._whole = 0
        self._whole_open: tuple[str, ...] = ()
        self._needs_comma = False

    def rebuild(self, body: str, position: int) -> str:
        while token := _TOKEN.match(body, position):
            position = token.end()
            string, opening, closing, colon, comma, literal = token.groups()
            if literal and position == len(body):
                # It may have broken off in the middle.
                break
            if opening:
                self._begin(opening)
            elif closing and self._open:
                self._end()
            elif colon:
                self._out.append(":")
                self._needs_comma = False
            elif not comma:
                self._value(_escaped(string) if string else _LITERALS.get(literal, literal))
            if not self._open:
                return "".join(self._out)
        return self._cut_off()

    def _begin(self, opening: str) -> None:
        self._separate()
        self._out.append(opening)
        self._open.append(opening)
        if len(self._open) == 1:
            self._note_whole()

    def _end(self) -> None:
        self._out.append(_CLOSING[self._open.pop()])
        self._after_value()

    def _value(self, text: str) -> None:
        is_key = self._open[-1] == "{" and self._out[-1] != ":"
        self._separate()
        self._out.append(text)
        if not is_key:
            self._after_value()

    def _separate(self) -> None:
        if self._needs_comma:
            self._out.append(",")
        self._needs_comma = False

    def _after_value(self) -> None:
        self._needs_comma = True
        if len(self._open) == 1 or (self._open and self._open[-1] == "["):
            self._note_whole()

    def _note_whole(self) -> None:
        self._whole = len(self._out)
        self._whole_open = tuple(self._open)

    def _cut_off(self) -> str:
        return "".join(self._out[: self._whole]) + "".join(_CLOSING[each] for each in reversed(self._whole_open))


def _escaped(string: str) -> str:
    """Raw line breaks inside a string are the most usual fault of small models."""
    return "".join(_CONTROL.get(character, character) for character in string)
