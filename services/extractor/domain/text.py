"""The stored text: normalised once, the ground that every span of the system refers to.

Only what no reader can see, and what PostgreSQL cannot hold, is changed. Canonical
composition (NFC) is deliberately left alone: a quote is compared code point for code
point with what the author wrote.
"""

import re
from typing import Final

_LINE_ENDINGS: Final = re.compile(r"\r\n?|\x0b|\x0c|\x85|\u2028|\u2029")
_FORBIDDEN: Final = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\ufeff\ufffe\uffff]")
_SURROGATES: Final = re.compile("[\ud800-\udfff]")


def normalise(raw: str) -> str:
    """The text as it is stored: `\\n` line endings, no control characters, no byte order mark.

    Idempotent. Unpaired surrogates become U+FFFD; nothing else is replaced.
    """
    text = _LINE_ENDINGS.sub("\n", raw)
    text = _FORBIDDEN.sub("", text)
    return _SURROGATES.sub("\ufffd", text)
