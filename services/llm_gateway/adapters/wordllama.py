"""The embedded embedding model WordLlama: 256 dimensions, static token vectors, mean pooled.

Weights and tokenizer are those that the `wordllama` package ships. Its loader is not used:
it looks for the tokenizer in a folder that the package does not have and goes to the
network then. Concurrent requests are joined into one pass, which runs in a thread; the
tokenizer and numpy let the event loop go on for most of it.
"""

import asyncio
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from services.llm_gateway.application.ports import Vectors
from services.llm_gateway.domain.calls import ModelInfo, Operation, Usage
from services.shared.batching import Batcher

_WEIGHTS = Path("weights", "l2_supercat_256.safetensors")
_TOKENIZER = Path("tokenizers", "l2_supercat_tokenizer_config.json")
_DIMENSION = 256
_MAX_PASS_TEXTS = 1024
# Between slices the thread offers the interpreter to the event loop.
_SLICE_TEXTS = 32

MODEL = ModelInfo(name="wordllama", provider="wordllama", operation=Operation.EMBED, dimension=_DIMENSION)


class WordLlamaModel:
    """The model itself; loads on construction (0.3 s, 40 MB)."""

    def __init__(self) -> None:
        # The embedded models are an extra of the package; only who uses one loads it.
        import numpy as np  # noqa: PLC0415
        from safetensors.numpy import (  # noqa: PLC0415
            load_file,  # pyright: ignore[reportUnknownVariableType]
        )
        from tokenizers import Tokenizer  # noqa: PLC0415

        folder = _package_folder()
        self._numpy: Any = np
        weights: Any = load_file(folder / _WEIGHTS)["embedding.weight"]
        self._table: Any = weights.astype(np.float32)
        self._tokenizer: Any = Tokenizer.from_file(str(folder / _TOKENIZER))  # pyright: ignore[reportUnknownMemberType]
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()

    def embed(self, texts: Sequence[str]) -> list[tuple[bytes, int]]:
        """Vector and number of tokens of each text; an empty vector for a text without tokens."""
        found: list[tuple[bytes, int]] = []
        for start in range(0, len(texts), _SLICE_TEXTS):
            found += self._embed_slice(list(texts[start : start + _SLICE_TEXTS]))
        return found

    def _embed_slice(self, texts: list[str]) -> list[tuple[bytes, int]]:
        np = self._numpy
        ids: list[list[int]] = [
            encoding.ids for encoding in self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        ]
        counts = [len(each) for each in ids]
        whole = [each for each in ids if each]
        if not whole:
            return [(b"", 0)] * len(texts)
        lengths = np.array([len(each) for each in whole])
        starts = np.concatenate(([0], np.cumsum(lengths)[:-1]))
        flat = np.fromiter((token for each in whole for token in each), dtype=np.int64, count=int(lengths.sum()))
        means = np.add.reduceat(self._table[flat], starts, axis=0) / lengths[:, None].astype(np.float32)
        means /= np.linalg.norm(means, axis=1, keepdims=True)
        rows = iter(means.astype("<f4"))
        return [(next(rows).tobytes() if count else b"", count) for count in counts]


def _package_folder() -> Path:
    found = importlib.util.find_spec("wordllama")
    if found is None or not found.submodule_search_locations:
        raise OSError(
            "the package wordllama is not installed: install scristill[models], or do without it by "
            "LLM_GATEWAY_WORDLLAMA=false"
        )
    return Path(next(iter(found.submodule_search_locations)))


class WordLlamaProvider:
    """`async with WordLlamaProvider(model) as provider`."""

    def __init__(self, model: WordLlamaModel) -> None:
        self._model = model
        self._batcher: Batcher[Sequence[str], list[tuple[bytes, int]]] = Batcher(
            self._embed_together, name="wordllama", max_weight=_MAX_PASS_TEXTS, weigh=len
        )

    @property
    def model(self) -> ModelInfo:
        return MODEL

    async def __aenter__(self) -> Self:
        await self._batcher.__aenter__()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        await self._batcher.__aexit__(exc_type, exc_val, exc_tb)

    async def embed(self, texts: Sequence[str]) -> Vectors:
        found = await self._batcher.submit(texts)
        return Vectors(
            rows=[row for row, _ in found],
            dimension=_DIMENSION,
            usage=Usage(input_tokens=sum(tokens for _, tokens in found), provider_calls=1),
        )

    async def _embed_together(self, requests: Sequence[Sequence[str]]) -> list[list[tuple[bytes, int]]]:
        texts = [text for request in requests for text in request]
        found = iter(await asyncio.to_thread(self._model.embed, texts))
        return [[next(found) for _ in request] for request in requests]
