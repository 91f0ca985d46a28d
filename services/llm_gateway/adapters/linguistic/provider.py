"""The embedded provider `linguistic`: fills extraction schemas by reading, without a language model.

Deterministic, with no key and no network. It takes the documents of a prompt (or, without
any, the words of the user) and ignores instructions.
"""

from collections.abc import AsyncGenerator, Iterator
from typing import Any

import orjson

from services.llm_gateway.adapters.linguistic.fitting import Fitting
from services.llm_gateway.adapters.linguistic.pool import WorkerPool
from services.llm_gateway.application.ports import Finish, Question
from services.llm_gateway.domain.calls import (
    FinishReason,
    ModelInfo,
    Operation,
    Prompt,
    Role,
    Usage,
    estimated_tokens,
)
from services.llm_gateway.domain.errors import ProviderRejection

MODEL = ModelInfo(name="linguistic", provider="linguistic", operation=Operation.GENERATE, enforces_json_schema=True)

Json = dict[str, Any]


class LinguisticProvider:
    def __init__(self, pool: WorkerPool) -> None:
        self._pool = pool

    @property
    def model(self) -> ModelInfo:
        return MODEL

    @property
    def takes_corrections(self) -> bool:
        return False

    async def generate(self, question: Question) -> AsyncGenerator[str | Finish]:
        if question.output_format is None:
            raise ProviderRejection(
                "the linguistic provider fills JSON Schemas only; configure a language model for free text"
            )
        fitting = Fitting(question.output_format.schema)
        documents = _texts(question.prompt)
        answer = await self._pool.ask({"documents": documents})
        facts: list[Json] = []
        entities: list[Json] = []
        for document, findings in zip(documents, answer["findings"], strict=True):
            facts += _with_quotes(findings["facts"], document)
            entities += _with_quotes(findings["entities"], document)
        output = orjson.dumps(fitting.output(facts=facts, entities=entities)).decode()
        yield output
        yield Finish(
            reason=FinishReason.STOP,
            usage=Usage(
                input_tokens=estimated_tokens(sum(map(len, documents))),
                output_tokens=estimated_tokens(len(output)),
                estimated=True,
            ),
        )


def _texts(prompt: Prompt) -> list[str]:
    if prompt.documents:
        return [document.text for document in prompt.documents]
    return [message.text for message in prompt.messages if message.role is Role.USER]


def _with_quotes(findings: list[Json], document: str) -> Iterator[Json]:
    for finding in findings:
        yield finding | {"quote": document[finding["start"] : finding["end"]]}
