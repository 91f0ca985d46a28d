"""Measures what fusion is worth. The last line is one JSON object.

    python -m tests.bench.search [--corpus DIRECTORY]

The Lee corpus of news stories, as the `gensim` package ships it, one fact per sentence. The query is the first sentence
of a story; the other sentences of the same story are what should be found, and nothing else. `ndcg_*` is nDCG at 10, in
points of a hundred, the mean over all stories.
"""

import argparse
import asyncio
import hashlib
import importlib.util
import json
import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from uuid import UUID, uuid5

from scristill.indexer.v1 import fact_pb2, search_service_pb2

from tests.bench.indexer_stack import index, running_stack
from tests.integration.indexer.builders import IndexerClient

CUTOFF = 10
PROJECT = "018f0000-0000-7000-8000-00000000be55"
MODES = {
    "ndcg_dense": search_service_pb2.SEARCH_MODE_DENSE,
    "ndcg_sparse": search_service_pb2.SEARCH_MODE_SPARSE,
    "ndcg_fused": search_service_pb2.SEARCH_MODE_HYBRID,
}

Story = list[str]


def stories(directory: Path) -> list[Story]:
    """Stories of at least three sentences; sentences of fewer than five words carry no fact."""
    lines = [
        line
        for name in ("lee_background.cor", "lee.cor")
        for line in (directory / name).read_text(encoding="utf-8", errors="replace").splitlines()
    ]
    split = ([part for part in re.split(r"(?<=[.!?])\s+", line) if len(part.split()) >= 5] for line in lines)
    return [story for story in split if len(story) >= 3]


def source_id(number: int) -> str:
    return str(uuid5(UUID(PROJECT), str(number)))


def facts(found: Sequence[Story]) -> list[fact_pb2.FactIntent]:
    return [
        fact_pb2.FactIntent(
            fact_id=str(uuid5(UUID(source_id(number)), str(position))),
            version=1,
            operation=fact_pb2.INTENT_OPERATION_UPSERT,
            project_id=PROJECT,
            source_id=source_id(number),
            content_hash=hashlib.sha256(sentence.encode()).digest(),
            content=fact_pb2.FactContent(statement=sentence),
        )
        for number, story in enumerate(found)
        for position, sentence in enumerate(story[1:])
    ]


def ndcg(hits: Sequence[bool], relevant: int) -> float:
    gained = sum(hit / math.log2(rank + 2) for rank, hit in enumerate(hits[:CUTOFF]))
    return gained / sum(1 / math.log2(rank + 2) for rank in range(min(relevant, CUTOFF)))


async def score(client: IndexerClient, found: Sequence[Story], mode: search_service_pb2.SearchMode) -> float:
    total = 0.0
    for number, story in enumerate(found):
        request = search_service_pb2.SearchRequest(project_id=PROJECT, query=story[0], mode=mode, page_size=CUTOFF)
        response = await client.searcher.Search(request, timeout=30)
        total += ndcg([hit.source_id == source_id(number) for hit in response.hits], len(story) - 1)
    return round(100 * total / len(found), 1)


async def measure(directory: Path) -> dict[str, float]:
    found = stories(directory)
    intents = facts(found)
    async with running_stack() as stack:
        await index(stack.indexer.client, intents)
        scores = {name: await score(stack.indexer.client, found, mode) for name, mode in MODES.items()}
    gain = scores["ndcg_fused"] - max(scores["ndcg_dense"], scores["ndcg_sparse"])
    return {"facts": len(intents), "queries": len(found), **scores, "fusion_gain": round(gain, 1)}


def shipped_corpus() -> Path:
    found = importlib.util.find_spec("gensim")
    if found is None or not found.submodule_search_locations:
        sys.exit("the corpus comes with the package gensim: install it, or name a directory with --corpus")
    return Path(next(iter(found.submodule_search_locations))) / "test" / "test_data"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.search")
    parser.add_argument("--corpus", type=Path, help="directory of lee.cor and lee_background.cor")
    options = parser.parse_args()
    print(json.dumps(asyncio.run(measure(options.corpus or shipped_corpus()))))


if __name__ == "__main__":
    main()
