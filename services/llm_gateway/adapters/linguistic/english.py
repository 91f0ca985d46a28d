"""English: facts from the clauses and entities from the names of a spaCy parse."""

import re
from collections.abc import Iterator
from itertools import pairwise

from spacy.tokens import Doc, Span, Token

from services.llm_gateway.adapters.linguistic.clauses import Clause, clauses
from services.llm_gateway.adapters.linguistic.findings import Category, Entity, EntityType, Fact
from services.llm_gateway.adapters.linguistic.passages import Passage

_ENTITY_TYPES = {
    "PERSON": EntityType.PERSON,
    "ORG": EntityType.ORGANIZATION,
    "GPE": EntityType.PLACE,
    "LOC": EntityType.PLACE,
    "FAC": EntityType.PLACE,
    "DATE": EntityType.DATE,
    "TIME": EntityType.DATE,
    "QUANTITY": EntityType.QUANTITY,
    "PERCENT": EntityType.QUANTITY,
    "MONEY": EntityType.QUANTITY,
    "CARDINAL": EntityType.QUANTITY,
    "WORK_OF_ART": EntityType.WORK,
    "LAW": EntityType.WORK,
    "EVENT": EntityType.OTHER,
    "PRODUCT": EntityType.OTHER,
    "NORP": EntityType.OTHER,
    "LANGUAGE": EntityType.OTHER,
}
_NUMBERS = frozenset({"QUANTITY", "PERCENT", "MONEY", "CARDINAL"})
_PLACES = frozenset({"GPE", "LOC", "FAC"})
_PLACE_PREPOSITIONS = frozenset(
    {"in", "at", "on", "near", "by", "between", "above", "below", "along", "beside", "under"}
)
_PLACE_VERBS = frozenset(
    {"located", "situated", "based", "lies", "lie", "lay", "stands", "stand", "stood", "borders", "sits", "overlooks"}
)
_MEASURES = frozenset(
    {"has", "have", "had", "costs", "cost", "measures", "measured", "weighs", "weighed", "holds", "held", "contains"}
    | {"contained", "covers", "covered", "spans", "spanned", "reaches", "reached", "rises", "seats", "produces"}
    | {"produced", "generates", "carries", "employs", "employed", "takes", "took", "lasts", "lasted", "numbers"}
)
_PAST_TAGS = frozenset({"VBD", "VBN"})
_EDGE = re.compile(r"^(?:the|a|an)\s+|['’]s$", re.IGNORECASE)
# Smaller numbers name nothing.
_MIN_NUMBER_CHARACTERS = 3
_BESIDE = frozenset({"conj", "parataxis"})
_LOOSE_ENDS = frozenset({"cc", "punct", "mark"})
_WH_TAGS = frozenset({"WDT", "WP", "WRB", "WP$"})
_CLOSING = frozenset({")", "]", "”", "’", '"', "%"})
_SPACE_BEFORE_MARK = re.compile(r"\s+([,.;:!?)])")
_DOUBLED_MARK = re.compile(r"[,;:](?:\s*[,;:])+")
_ONLY_SYMBOLS = re.compile(r"^[\W\d_]*$")


def facts(doc: Doc, passage: Passage) -> Iterator[Fact]:
    for sentence in doc.sents:
        found = list(clauses(sentence))
        text = sentence.text.strip()
        if not found or not text:
            continue
        start = sentence.start_char + (len(sentence.text) - len(sentence.text.lstrip()))
        span = passage.span(start, start + len(text))
        whole = passage.display(start, start + len(text))
        for clause in found:
            yield Fact(
                subject=clause.subject.text,
                predicate=clause.predicate,
                object=clause.object.text,
                statement=whole if clause.alone or len(found) == 1 else _statement(clause),
                category=_category(clause),
                start=span[0],
                end=span[1],
            )


def _statement(clause: Clause) -> str:
    """The clause as a sentence of its own; a subject that stands elsewhere is put in front."""
    borrowed = clause.subject.root.head != clause.head
    own = (token for token in clause.head.subtree if not _is_aside(token, clause, borrowed=borrowed))
    words = sorted({*own, *clause.verb}, key=lambda token: token.i)
    while words and (words[-1].dep_ in _LOOSE_ENDS and words[-1].text not in _CLOSING):
        words.pop()
    while words and (words[0].dep_ in _LOOSE_ENDS or _begins_relative(words)):
        words.pop(0)
    text = _sentence_of([*clause.subject, *words] if borrowed else words)
    return text[:1].upper() + text[1:]


def _begins_relative(words: list[Token]) -> bool:
    """`where …`, `of which …`."""
    second = words[1] if len(words) > 1 else None
    return words[0].tag_ in _WH_TAGS or (words[0].dep_ == "prep" and second is not None and second.tag_ in _WH_TAGS)


def _is_aside(token: Token, clause: Clause, *, borrowed: bool) -> bool:
    """Whether the token belongs to a clause beside this one, or ties the two together."""
    head = clause.head
    if borrowed and (token in clause.subject or token.i < clause.verb[0].i):
        return True
    while token != head:
        before = token.dep_ in {"ccomp", "advcl"} and token.i < head.i
        if token.pos_ in {"VERB", "AUX"} and (before or token.dep_ in _BESIDE):
            return True
        if token.head == head and token.dep_ in {"mark", "preconj"}:
            return True
        token = token.head
    return False


def _sentence_of(words: list[Token]) -> str:
    parts: list[str] = []
    for word, following in pairwise([*words, None]):
        if word is not None:
            apart = following is not None and (following.i != word.i + 1 or word.whitespace_)
            parts.append(f"{word.text} " if apart else word.text)
    text = _SPACE_BEFORE_MARK.sub(r"\1", "".join(parts))
    return f"{_DOUBLED_MARK.sub(',', text).strip(' ,;:–—-.')}."


def _category(clause: Clause) -> Category:
    labels = {entity.label_ for entity in clause.object.ents}
    verb = clause.head.lower_
    if _is_place(clause, labels):
        return Category.LOCATION
    if clause.is_copula:
        return _copula_category(clause, labels)
    if labels & _NUMBERS and verb in _MEASURES:
        return Category.QUANTITY
    if clause.head.tag_ in _PAST_TAGS:
        return Category.EVENT
    return Category.RELATION if clause.object.root.pos_ in {"NOUN", "PROPN"} else Category.PROPERTY


def _copula_category(clause: Clause, labels: set[str]) -> Category:
    root = clause.object.root
    if labels & _NUMBERS and (root.ent_type_ in _NUMBERS or root.pos_ == "NUM"):
        return Category.QUANTITY
    defines = root.dep_ == "attr" and root.pos_ in {"NOUN", "PROPN"}
    return Category.DEFINITION if defines else Category.PROPERTY


def _is_place(clause: Clause, labels: set[str]) -> bool:
    last = clause.verb[-1].lower_
    if clause.head.lower_ in _PLACE_VERBS:
        return last in _PLACE_PREPOSITIONS or bool(labels & _PLACES)
    return clause.is_copula and last in _PLACE_PREPOSITIONS and bool(labels & _PLACES)


def entities(doc: Doc, passage: Passage) -> Iterator[Entity]:
    for mention in doc.ents:
        kind = _ENTITY_TYPES.get(mention.label_)
        trimmed = _trimmed(mention)
        if kind is None or trimmed is None:
            continue
        start, end = trimmed
        name = doc.text[start:end]
        if _is_worthwhile(name, mention.label_):
            span = passage.span(start, end)
            yield Entity(name=name, type=kind, start=span[0], end=span[1])


def _trimmed(mention: Span) -> tuple[int, int] | None:
    start, end = mention.start_char, mention.end_char
    text = mention.text
    if found := _EDGE.match(text):
        start += found.end()
    if text.endswith(("'s", "’s")):
        end -= 2
    return (start, end) if end > start else None


def _is_worthwhile(name: str, label: str) -> bool:
    if label == "CARDINAL":
        return any(character.isdigit() for character in name) and len(name) >= _MIN_NUMBER_CHARACTERS
    if label in {"DATE", "TIME"}:
        return any(character.isdigit() for character in name) or name[:1].isupper()
    return label in _NUMBERS or (not _ONLY_SYMBOLS.match(name) and len(name) > 1)
