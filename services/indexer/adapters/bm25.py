"""Sparse vectors: BM25 term weights by the encoder that Qdrant's own engine ships.

Words are segmented for every script, Chinese and Japanese included. The inverse
document frequency is not part of the weights: Qdrant applies it while searching, from
the present corpus (the collection's IDF modifier).
"""

import unicodedata
from typing import Protocol

from qdrant_edge import Bm25, Bm25Config, TokenizerType

from services.indexer.application.ports import SparseVector


class _Encoded(Protocol):
    @property
    def indices(self) -> list[int]: ...

    @property
    def values(self) -> list[float]: ...


class Bm25Encoder:
    """`language` chooses stop words and stemmer; `average_length` is that of a statement, in words."""

    def __init__(self, *, language: str, average_length: float) -> None:
        self._model = Bm25(
            Bm25Config(
                tokenizer=TokenizerType.Multilingual,
                language=language,
                avg_len=average_length,
                lowercase=True,
                ascii_folding=True,
            )
        )

    def document(self, text: str) -> SparseVector:
        return _vector(self._model.embed_document(_normalized(text)))

    def query(self, text: str) -> SparseVector:
        return _vector(self._model.embed_query(_normalized(text)))


def _normalized(text: str) -> str:
    """Full-width forms and combining marks must not hide a word from its usual spelling."""
    return unicodedata.normalize("NFKC", text)


def _vector(encoded: _Encoded) -> SparseVector:
    return SparseVector(indices=encoded.indices, values=encoded.values)
