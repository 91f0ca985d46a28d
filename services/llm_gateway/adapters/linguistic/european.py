"""German, French, Spanish and Italian by rule: one fact per sentence that starts with its subject.

The finite verb comes from a list (in German also from the form of the preterite), what is
before it is the subject, what is after it the object. Sentences that start with anything
but a noun phrase, and other languages, give nothing.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from services.llm_gateway.adapters.linguistic.findings import Category, Fact
from services.llm_gateway.adapters.linguistic.passages import Passage

_SENTENCE = re.compile(r".+?(?:[.!?…](?=\s+[\"'«»„“(]?[A-ZÀ-Þ]|$)|$)", re.DOTALL)
_WORD = re.compile(r"[^\s]+")
_ABBREVIATION = re.compile(r"(?:\b(?:Dr|Prof|Nr|ca|bzw|St|M|Mme|Sr|Sra|Ing|z\.\s?B|u\.\s?a|\d{1,2})\.)$")
_OBJECT_END = re.compile(
    r"[,;:]\s+(?:der|die|das|den|dem|welche[rs]?|obwohl|weil|während|wobei|qui|que|dont|où|che|cui)\b"
)
_EDGES = " .,;:!?…\"'«»„“”()"

_MAX_SUBJECT_WORDS = 10
_MIN_OBJECT_LETTERS = 3
_MAX_SENTENCE_CHARACTERS = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class _Grammar:
    """`openers` start a sentence with something that is no subject."""

    common: frozenset[str]
    copulas: frozenset[str]
    places: frozenset[str]
    verbs: frozenset[str]
    openers: frozenset[str]
    determiners: frozenset[str]
    preterite: re.Pattern[str] | None = None


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_GRAMMARS = (
    _Grammar(
        common=_words("der die das und ist nicht ein eine einen dem den des mit auf für von sich auch wurde im zu war"),
        copulas=_words("ist sind war waren bleibt blieb"),
        places=_words("liegt liegen lag lagen steht stehen stand befindet grenzt"),
        verbs=_words(
            "hat haben hatte hatten wurde wurden wird werden besteht bestehen besitzt enthält umfasst verbindet bildet "
            "zählt stammt gehört gilt zeigt führt leitet bedecken beherbergt versorgt trägt heißt entwarf "
            "schrieb fand gewann begann erhielt verließ hielt trieben trieb floss"
        ),
        openers=_words(
            "im in am an auf bei seit nach vor mit zu zum zur unter über von vom durch für um als wenn weil obwohl "
            "es da dort hier heute damals danach später dabei den dem und aber oder doch sowie bis aus ohne gegen"
        ),
        determiners=_words("der die das ein eine jeder jede jedes dieser diese dieses sein seine ihr ihre"),
        preterite=re.compile(r"^[a-zäöüß]{3,}te[nt]?$"),
    ),
    _Grammar(
        common=_words(
            "le la les et est une des du dans par pour qui que sur avec au aux ce cette sont été en pas plus"
        ),
        copulas=_words("est sont était étaient fut furent reste devient devint"),
        places=_words("se_trouve borde domine traverse"),
        verbs=_words(
            "a ont avait avaient eut compte possède contient comprend abrite relie produit reçoit accueille mesure "
            "conçut construisit fonda dirige dirigea publie publia découvrit remporta ouvrit appartient date"
        ),
        openers=_words(
            "en dans à au aux sur sous par pour avec sans depuis après avant pendant vers chez il elle ils elles on ce "
            "cela c'est si quand lorsque comme mais et ou donc où y"
        ),
        determiners=_words("le la les un une des ce cette ces son sa ses leur leurs"),
    ),
    _Grammar(
        common=_words("el los las es un una del y en con por para que se su al fue como más está la de"),
        copulas=_words("es son era eran fue fueron está están"),
        places=_words("limita atraviesa rodea"),
        verbs=_words(
            "tiene tienen tenía cuenta posee contiene incluye produce recibe mide pesa une forma fundó construyó "
            "descubrió publicó ganó abrió pertenece dirige dirigió nació murió"
        ),
        openers=_words(
            "en a al desde hasta con sin por para según tras durante entre hacia sobre cuando si como pero y o aunque "
            "hay se"
        ),
        determiners=_words("el la los las un una unos unas este esta estos estas su sus"),
    ),
    _Grammar(
        common=_words("il di che è per gli della nel con sono una anche la del e i le un dei"),
        copulas=_words("è sono era erano fu furono"),
        places=_words("confina sorge attraversa"),
        verbs=_words(
            "ha hanno aveva conta possiede contiene comprende produce riceve misura pesa unisce forma fondò costruì "
            "progettò scoprì pubblicò vinse aprì appartiene diresse nacque morì ospita"
        ),
        openers=_words(
            "in nel nella nei a al alla da dal dalla su sul con per tra fra dopo prima durante quando se come ma e o si"
        ),
        determiners=_words("il lo la i gli le un uno una questo questa suo sua"),
    ),
)


def facts(passage: Passage) -> Iterator[Fact]:
    grammar = _grammar_of(passage.text)
    if grammar is None:
        return
    for start, end in _sentences(passage.text):
        sentence = passage.text[start:end]
        fact = _fact(sentence, grammar, passage.span(start, end))
        if fact is not None:
            yield fact


def _grammar_of(text: str) -> _Grammar | None:
    words = [word.strip(_EDGES).lower() for word in text.split()]
    best = max(_GRAMMARS, key=lambda grammar: sum(word in grammar.common for word in words))
    hits = sum(word in best.common for word in words)
    return best if hits * 8 >= len(words) else None


def _sentences(text: str) -> Iterator[tuple[int, int]]:
    start: int | None = None
    for found in _SENTENCE.finditer(text):
        begin = found.start() if start is None else start
        if _ABBREVIATION.search(found.group()) and found.end() < len(text):
            start = begin
            continue
        start = None
        piece = text[begin : found.end()]
        lead = len(piece) - len(piece.lstrip())
        if piece.strip():
            yield begin + lead, begin + len(piece.rstrip())


def _fact(sentence: str, grammar: _Grammar, span: tuple[int, int]) -> Fact | None:
    if len(sentence) > _MAX_SENTENCE_CHARACTERS or sentence.endswith("?"):
        return None
    words = list(_WORD.finditer(sentence))
    first = words[0].group().strip(_EDGES)
    if first.lower() in grammar.openers or not first[:1].isupper():
        return None
    for number, word in enumerate(words[1 : _MAX_SUBJECT_WORDS + 1], start=1):
        if words[number - 1].group().endswith((",", ";", ":")):
            return None
        if _is_verb(word.group(), words[number - 1].group(), grammar):
            subject = sentence[: word.start()].strip(_EDGES)
            rest = sentence[word.end() :]
            cut = _OBJECT_END.search(rest)
            target = (rest[: cut.start()] if cut else rest).strip(_EDGES)
            if sum(character.isalpha() for character in target) < _MIN_OBJECT_LETTERS:
                return None
            return Fact(
                subject=subject,
                predicate=word.group(),
                object=target,
                statement=sentence,
                category=_category(word.group(), target, grammar),
                start=span[0],
                end=span[1],
            )
    return None


def _is_verb(word: str, before: str, grammar: _Grammar) -> bool:
    if word in grammar.copulas or word in grammar.places or word in grammar.verbs:
        return True
    after_noun = before[:1].isupper() and before.lower() not in grammar.determiners
    return grammar.preterite is not None and after_noun and grammar.preterite.match(word) is not None


def _category(verb: str, target: str, grammar: _Grammar) -> Category:
    if verb in grammar.places:
        return Category.LOCATION
    if verb in grammar.copulas:
        defines = target.split(maxsplit=1)[0].lower() in grammar.determiners
        return Category.DEFINITION if defines else Category.PROPERTY
    return Category.EVENT if grammar.preterite and grammar.preterite.match(verb) else Category.RELATION
