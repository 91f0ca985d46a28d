"""Which rules a passage is read by. Decided by script, then by the commonest words."""

import re
from enum import StrEnum

_WORD = re.compile(r"[^\W\d_]+")
_SAMPLE_WORDS = 120

# Blocks of Unicode, first and last code point.
_HAN = ((0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x323AF))
_KANA = ((0x3040, 0x30FF),)
_LATIN = ((0x0041, 0x024F), (0x1E00, 0x1EFF))


def _words(*lines: str) -> frozenset[str]:
    return frozenset(word for line in lines for word in line.split())


_ENGLISH = _words(
    "the of and to in a is that it was for on are as with his they at be this from have or by had not but",
    "what all were when we there can an your which their if will each how he she has its two been more who",
)
# German, French, Spanish, Italian, Dutch, Portuguese, Swedish.
_OTHERS = _words(
    "der die das und ist nicht ein eine einen dem den des mit auf für von sich auch wird wurde im zu zur sind war",
    "le la les et est une des du dans par pour qui que sur avec au aux ce cette sont été en pas plus",
    "el los las es un una del y con para se su al fue como más está",
    "il di che è per gli della nel con sono anche",
    "de het een van zijn niet dat met op te voor",
    "o os as um uma em não do da dos das com foi são",
    "och att som på är av för med till inte",
)


class Language(StrEnum):
    ENGLISH = "english"
    CHINESE = "chinese"
    OTHER = "other"


def language_of(text: str) -> Language:
    han = latin = kana = other = 0
    for character in text:
        if not character.isalpha():
            continue
        code = ord(character)
        if _within(code, _HAN):
            han += 1
        elif _within(code, _KANA):
            kana += 1
        elif _within(code, _LATIN):
            latin += 1
        else:
            other += 1
    # One Han character says about as much as three Latin letters.
    if han * 3 > latin + other and kana * 4 < han:
        return Language.CHINESE
    if latin > 2 * (han + kana + other) and _is_english(text):
        return Language.ENGLISH
    return Language.OTHER


def _within(code: int, blocks: tuple[tuple[int, int], ...]) -> bool:
    return any(first <= code <= last for first, last in blocks)


def _is_english(text: str) -> bool:
    words = [word.lower() for word in _WORD.findall(text)[:_SAMPLE_WORDS]]
    english = sum(word in _ENGLISH for word in words)
    others = sum(word in _OTHERS and word not in _ENGLISH for word in words)
    return english >= others
