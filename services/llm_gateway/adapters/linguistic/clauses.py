"""Reads subject, predicate and object from the clauses of an English dependency parse.

A clause is headed by a finite verb or copula: a main verb, a verb coordinated with it,
a complement or adverbial clause with a subject of its own, a relative clause. Each
clause gives one triple at most; a clause that says nothing by itself gives none.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from spacy.tokens import Span, Token

_SUBJECTS = frozenset({"nsubj", "nsubjpass"})
_OBJECTS = ("dobj", "attr", "oprd", "acomp", "dative")
_VERB_PARTS = frozenset({"aux", "auxpass", "neg", "prt"})
_CLAUSAL = frozenset({"relcl", "advcl", "ccomp", "parataxis", "acl", "csubj"})
_RELATIVE = frozenset({"who", "which", "that", "whom"})
_EMPTY_SUBJECTS = frozenset({"you", "i", "what", "who", "which", "that", "this", "those", "there", "one", "one's"})
_VAGUE_SUBJECTS = frozenset(
    {"it", "they", "he", "she", "we", "these", "those", "all", "some", "both", "many", "others"}
)
# "that", "which", "whom": what they begin is a clause and names nothing.
_CLAUSE_TAGS = frozenset({"WDT", "WP", "WP$", "WRB"})
_CONDITIONS = frozenset({"if", "unless", "when", "whenever", "until", "before", "once", "as", "whether", "lest"})
_TAKE = frozenset({"take", "takes", "took", "taken", "taking"})
_BE = frozenset({"is", "are", "was", "were", "be", "been", "being", "'s", "’s", "'re"})
_FINITE_TAGS = frozenset({"VBD", "VBZ", "VBP", "MD"})

# What code and mark-up leave in a text.
_CODE = re.compile(r"[={}<>|\\#~^]|\(\)|://|__")

_MAX_SENTENCE_TOKENS = 90
_MAX_ARGUMENT_TOKENS = 28


@dataclass(frozen=True, slots=True, kw_only=True)
class Clause:
    """One triple as tokens. `subject` and `object` are runs of the sentence."""

    subject: Span
    verb: list[Token]
    object: Span
    head: Token
    # Whether the clause is the sentence itself, so that its text can stand for it.
    alone: bool

    @property
    def predicate(self) -> str:
        return _joined(self.verb)

    @property
    def is_copula(self) -> bool:
        return self.head.lower_ in _BE and self.head.dep_ not in {"aux", "auxpass"}


def clauses(sentence: Span) -> Iterator[Clause]:
    """Clauses in the order of the text; none for questions, fragments and run-away sentences."""
    if len(sentence) > _MAX_SENTENCE_TOKENS or sentence.text.rstrip("\"'”’) ").endswith("?"):
        return
    heads = [token for token in sentence if _is_head(token)]
    for head in heads:
        clause = _read(head, alone=len(heads) == 1)
        if clause is not None:
            yield clause


def _is_head(token: Token) -> bool:
    if token.pos_ not in {"VERB", "AUX"}:
        return False
    if token.dep_ in {"ccomp", "advcl"} and any(child.lower_ in _CONDITIONS for child in token.children):
        # "when no brood is present" does not say that there is none.
        return False
    if token.dep_ in {"ROOT", "relcl", "ccomp", "advcl", "parataxis"}:
        return _is_finite(token)
    return token.dep_ == "conj" and token.head.pos_ in {"VERB", "AUX"} and _is_finite(token)


def _is_finite(token: Token) -> bool:
    if token.tag_ in _FINITE_TAGS:
        return True
    if any(child.dep_ in {"aux", "auxpass"} and child.tag_ in _FINITE_TAGS for child in token.children):
        return True
    if token.dep_ == "ROOT" and token.tag_ == "VBN":
        # "The deck consisted of planks": a past tense that the tagger took for a participle.
        return any(child.dep_ == "nsubj" for child in token.children)
    # "was designed and built": the second participle shares the auxiliary of the first.
    return token.dep_ == "conj" and token.tag_ == token.head.tag_ and _is_finite(token.head)


def _read(head: Token, *, alone: bool) -> Clause | None:
    subject = _subject(head)
    found = _object(head)
    if subject is None or found is None:
        return None
    target, joint = found
    verb = sorted({*_verb_group(head), *joint}, key=lambda token: token.i)
    if subject.end > target.start and subject.start < target.end:
        return None
    if (
        len(subject) > _MAX_ARGUMENT_TOKENS
        or len(target) > _MAX_ARGUMENT_TOKENS
        or not _says_something(subject, target)
    ):
        return None
    return Clause(subject=subject, verb=verb, object=target, head=head, alone=alone)


def _subject(head: Token) -> Span | None:
    own = next((child for child in head.children if child.dep_ in _SUBJECTS), None)
    if own is None and any(child.dep_ == "expl" for child in head.children):
        return _existential(head)
    if own is None:
        shares = head.dep_ == "conj" and head.head.pos_ in {"VERB", "AUX"}
        return _subject(head.head) if shares else None
    if own.lower_ in _RELATIVE:
        return _noun_phrase(_antecedent(head), without=head) if head.dep_ == "relcl" else None
    if own.left_edge == own.right_edge and own.i and own.nbor(-1).dep_ == "cc" and own.pos_ == "NOUN":
        # "…and collects coins": more often a verb that the parser took for a noun.
        return None
    return _noun_phrase(own)


def _antecedent(head: Token) -> Token:
    """What a relative clause is about; in `a set of stickers that was released` the set, by number."""
    noun = head.head
    verb = next((child for child in head.children if child.dep_ in {"aux", "auxpass"}), head)
    outer = noun.head.head if noun.dep_ == "pobj" and noun.head.lower_ == "of" else noun
    singular = verb.tag_ == "VBZ" or verb.lower_ == "was"
    return outer if singular and noun.tag_ in {"NNS", "NNPS"} and outer.tag_ in {"NN", "NNP"} else noun


def _existential(head: Token) -> Span | None:
    """`There are two locks on the canal`: the locks are what the sentence is about."""
    real = next((child for child in head.children if child.dep_ in {"attr", "dobj"}), None)
    return _noun_phrase(real, bare=True) if real is not None and head.lower_ in _BE else None


def _object(head: Token) -> tuple[Span, list[Token]] | None:
    """The object and the tokens, such as prepositions, that tie it to the verb."""
    existential = any(child.dep_ == "expl" for child in head.children)
    for dependency in _OBJECTS:
        for child in head.children:
            if child.dep_ == "dobj" and child.text == "place" and head.lower_ in _TAKE:
                found = _prepositional(head)
                return (found[0], [child, *found[1]]) if found is not None else None
            if child.dep_ == dependency and not existential and child.left_edge.tag_ not in _CLAUSE_TAGS:
                return _noun_phrase(child), []
    for child in head.children:
        if child.dep_ == "xcomp" and child.pos_ in {"VERB", "AUX"}:
            inner = _object(child)
            return (inner[0], [*_verb_group(child), *inner[1]]) if inner is not None else None
    found = _prepositional(head)
    if found is None and existential:
        real = next((child for child in head.children if child.dep_ in {"attr", "dobj"}), None)
        found = _prepositional(real) if real is not None else None
    return found


def _prepositional(head: Token) -> tuple[Span, list[Token]] | None:
    prepositions = [child for child in head.children if child.dep_ in {"prep", "agent"} and child.i > head.i]
    prepositions.sort(key=lambda child: (child.dep_ != "agent", child.i))
    for preposition in prepositions:
        inner = preposition
        joint = [preposition]
        while nested := next((child for child in inner.children if child.dep_ == "prep" and child.i > inner.i), None):
            joint.append(nested)
            inner = nested
        noun = next((child for child in inner.children if child.dep_ == "pobj"), None)
        if noun is not None and noun.left_edge.tag_ not in _CLAUSE_TAGS:
            return _noun_phrase(noun), joint
    return None


def _verb_group(head: Token) -> list[Token]:
    group = [head, *(child for child in head.children if child.dep_ in _VERB_PARTS)]
    if head.dep_ == "conj" and not any(token.dep_ in {"aux", "auxpass"} for token in group):
        shared = [child for child in head.head.children if child.dep_ in {"aux", "auxpass"}]
        if head.tag_ in {"VBN", "VBG", "VB"} and head.tag_ == head.head.tag_:
            group += shared
    if head.dep_ == "xcomp":
        group += [child for child in head.children if child.dep_ == "aux" and child.tag_ == "TO"]
    return group


def _noun_phrase(token: Token, *, without: Token | None = None, bare: bool = False) -> Span:
    """The phrase under `token`, cut before a relative clause, an apposition or another clause."""
    start, end = token.left_edge.i, token.right_edge.i + 1
    for child in sorted(token.subtree, key=lambda item: item.i):
        outside = child is without or child.dep_ in _CLAUSAL or (child.dep_ == "appos" and child.head == token)
        if bare and child.dep_ == "prep" and child.head == token:
            outside = True
        if outside and child.i > token.i:
            end = min(end, max(child.left_edge.i, token.i + 1))
    while end - 1 > token.i and (token.doc[end - 1].is_punct or token.doc[end - 1].dep_ in {"cc", "punct", "mark"}):
        if token.doc[end - 1].text in {")", "]", "”", '"', "%", "’"} and _has_opening(token.doc[start : end - 1]):
            break
        end -= 1
    while start < token.i and (token.doc[start].is_punct or token.doc[start].dep_ in {"cc", "mark"}):
        start += 1
    return token.doc[start:end]


def _has_opening(span: Span) -> bool:
    return any(token.text in {"(", "[", "“", '"', "‘"} for token in span)


def _says_something(subject: Span, target: Span) -> bool:
    if any(token.tag_ in _CLAUSE_TAGS for token in subject):
        return False
    if _CODE.search(subject.text) or _CODE.search(target.text):
        return False
    if len(subject) == 1 and subject[0].lower_ in _EMPTY_SUBJECTS:
        return False
    if len(target) == 1 and target[0].pos_ in {"PRON", "PART", "PUNCT", "SYM"}:
        return False
    vague = len(subject) == 1 and subject[0].lower_ in _VAGUE_SUBJECTS
    return not (vague and len(target) == 1 and target[0].pos_ in {"ADJ", "ADV"})


def _joined(tokens: list[Token]) -> str:
    """The tokens as they stand, neighbours with the space that is between them."""
    parts: list[str] = []
    for token, following in zip(tokens, [*tokens[1:], None], strict=True):
        parts.append(token.text)
        if following is not None and (following.i != token.i + 1 or token.whitespace_):
            parts.append(" ")
    return "".join(parts)
