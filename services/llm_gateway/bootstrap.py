"""Wires the llm_gateway; the only module that knows all the others."""

import random
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

from scristill.llm_gateway.v1.llm_gateway_service_pb2_grpc import add_LlmGatewayServiceServicer_to_server

from services.llm_gateway.adapters.json_schema import JsonSchemaChecker
from services.llm_gateway.adapters.limits import FixedLimit
from services.llm_gateway.adapters.linguistic.pool import WorkerPool
from services.llm_gateway.adapters.linguistic.provider import LinguisticProvider
from services.llm_gateway.adapters.metrics import CallMetrics
from services.llm_gateway.adapters.openai import client as openai_client
from services.llm_gateway.adapters.openai.client import OpenAiClient
from services.llm_gateway.adapters.openai.embedding import OpenAiEmbedding
from services.llm_gateway.adapters.openai.generation import OpenAiGeneration
from services.llm_gateway.adapters.redis import connection
from services.llm_gateway.adapters.redis.dead_letters import RedisDeadLetters
from services.llm_gateway.adapters.redis.ledger import RedisLedger
from services.llm_gateway.adapters.redis.line import Line
from services.llm_gateway.adapters.redis.results import RedisResults
from services.llm_gateway.adapters.redis.scripts import Scripts
from services.llm_gateway.adapters.redis.tail import StreamTail
from services.llm_gateway.adapters.wordllama import WordLlamaModel, WordLlamaProvider
from services.llm_gateway.application.admission import Admission, QueueLimits
from services.llm_gateway.application.attempts import Attempts, GenerationRoute
from services.llm_gateway.application.capacity import WatchCapacity
from services.llm_gateway.application.catalogue import Catalogue, EmbeddingRoute
from services.llm_gateway.application.dead_letters import DeadLetters, Graveyard
from services.llm_gateway.application.embed import Embed
from services.llm_gateway.application.generation import Generation
from services.llm_gateway.application.generations import Generations
from services.llm_gateway.application.ports import EmbeddingProvider, GenerationProvider
from services.llm_gateway.application.retrying import Retries
from services.llm_gateway.application.scopes import DeleteScopes
from services.llm_gateway.domain.calls import GenerateCall
from services.llm_gateway.entrypoints.queue_reporter import QueueReporter
from services.llm_gateway.entrypoints.servicer import LlmGatewayServicer
from services.llm_gateway.settings import LlmGatewaySettings
from services.shared.checks import Check
from services.shared.grpc.server import register
from services.shared.lifecycle import Loop
from services.shared.retry import Backoff, RetryBudget
from services.shared.service import Runtime, Service

# Embedded models work on one request per process or pass; a second one waits ready.
_EMBEDDED_DEPTH = 2
_WORDLLAMA_CONCURRENCY = 64
_BACKOFF = Backoff(initial=timedelta(milliseconds=500), maximum=timedelta(seconds=20))


def checks(settings: LlmGatewaySettings) -> list[Check]:
    return [connection.check(settings.redis_url.get_secret_value())]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stores:
    """What stands in Redis."""

    tail: StreamTail
    results: RedisResults
    ledger: RedisLedger
    dead_letters: RedisDeadLetters


@asynccontextmanager
async def bootstrap(settings: LlmGatewaySettings, runtime: Runtime) -> AsyncGenerator[Service]:
    async with AsyncExitStack() as stack:
        stores = await _stores(settings, runtime, stack)
        catalogue = await _catalogue(settings, runtime, stack)
        retries = Retries(
            max_attempts=settings.max_attempts,
            backoff=_BACKOFF,
            budget=RetryBudget(),
            clock=runtime.clock,
            rng=random.Random(),  # noqa: S311 - jitter
        )
        generations = _generations(settings, runtime, stores, catalogue, retries)
        servicer = LlmGatewayServicer(
            generations=generations,
            embed=Embed(catalogue=catalogue, retries=retries, ledger=stores.ledger, clock=runtime.clock),
            catalogue=catalogue,
            watch_capacity=WatchCapacity(catalogue=catalogue, clock=runtime.clock),
            ledger=stores.ledger,
            dead_letters=DeadLetters(store=stores.dead_letters, start=generations.start_detached),
            delete_scopes=DeleteScopes(results=stores.results, dead_letters=stores.dead_letters),
            drain=runtime.drain,
            clock=runtime.clock,
        )
        yield Service(
            registrations=[register(add_LlmGatewayServiceServicer_to_server, servicer)],
            loops=[
                Loop(name="generations", run=generations.run),
                Loop(name="stream-tail", run=stores.tail.run),
                Loop(name="usage-ledger", run=stores.ledger.run),
                Loop(name="queue-reporter", run=QueueReporter(catalogue, runtime.metrics).run),
            ],
            capabilities=[
                "capacity.watch",
                "dead_letters.replay",
                "generate.detach",
                "generate.resume",
                "results.delete",
            ],
            outages=[connection.classify],
        )


async def _stores(settings: LlmGatewaySettings, runtime: Runtime, stack: AsyncExitStack) -> _Stores:
    url = settings.redis_url.get_secret_value()
    redis = connection.connect(url)
    stack.push_async_callback(redis.aclose)
    scripts = Scripts(await stack.enter_async_context(Line(redis)))
    tail = StreamTail(redis)
    keep, lease = timedelta(hours=settings.result_hours), timedelta(seconds=settings.lease_seconds)
    longest = timedelta(seconds=settings.generation_seconds)
    return _Stores(
        tail=tail,
        results=RedisResults(
            scripts=scripts,
            tail=tail,
            keep=keep,
            lease=lease,
            longest=longest,
        ),
        ledger=RedisLedger(client=redis, clock=runtime.clock),
        dead_letters=RedisDeadLetters(
            client=redis,
            scripts=scripts,
            keep=timedelta(days=settings.dead_letter_days),
            limit=settings.dead_letter_limit,
            tombstone=max(keep, longest + lease),
        ),
    )


def _generations(
    settings: LlmGatewaySettings, runtime: Runtime, stores: _Stores, catalogue: Catalogue, retries: Retries
) -> Generations:
    attempts = Attempts(retries=retries, checker=JsonSchemaChecker(), clock=runtime.clock)
    graveyard = Graveyard(store=stores.dead_letters, clock=runtime.clock)

    def generation(call: GenerateCall, owner: str, route: GenerationRoute) -> Generation:
        return Generation(
            call=call,
            owner=owner,
            route=route,
            attempts=attempts,
            store=stores.results,
            ledger=stores.ledger,
            graveyard=graveyard,
            max_seconds=settings.generation_seconds,
        )

    return Generations(
        instance=runtime.instance,
        route=catalogue.generation,
        make=generation,
        drain=runtime.drain,
        # The rest of the grace is for saying good-bye.
        finish_seconds=settings.drain_seconds * 0.8,
    )


async def _catalogue(settings: LlmGatewaySettings, runtime: Runtime, stack: AsyncExitStack) -> Catalogue:
    """The endpoint that was configured comes first, and is the default; the embedded models need nothing."""
    measures = CallMetrics(runtime.metrics)

    def queue(provider: GenerationProvider | EmbeddingProvider, limit: int) -> Admission:
        return Admission(
            limit=FixedLimit(limit),
            observer=measures.of(provider.model),
            queue_limits=QueueLimits(total=settings.queue_limit, per_project=settings.project_queue_limit),
            weight=settings.project_weight,
            clock=runtime.clock,
        )

    generation: list[tuple[GenerationProvider, int]] = []
    embedding: list[tuple[EmbeddingProvider, int]] = []
    if settings.openai_base_url:
        client = await _openai(settings, runtime, stack)
        if settings.openai_model:
            generation.append((_openai_generation(settings, client), settings.openai_concurrency))
        if settings.openai_embedding_model:
            embedding.append((_openai_embedding(settings, client), settings.openai_concurrency))
    if settings.linguistic_processes:
        pool = await stack.enter_async_context(WorkerPool(size=settings.linguistic_processes))
        generation.append((LinguisticProvider(pool), settings.linguistic_processes * _EMBEDDED_DEPTH))
    if settings.wordllama:
        provider = await stack.enter_async_context(WordLlamaProvider(WordLlamaModel()))
        embedding.append((provider, _WORDLLAMA_CONCURRENCY))
    return Catalogue(
        generation=[GenerationRoute(provider=each, admission=queue(each, limit)) for each, limit in generation],
        embedding=[EmbeddingRoute(provider=each, admission=queue(each, limit)) for each, limit in embedding],
    )


async def _openai(settings: LlmGatewaySettings, runtime: Runtime, stack: AsyncExitStack) -> OpenAiClient:
    http = await stack.enter_async_context(
        openai_client.session(
            api_key=settings.openai_api_key.get_secret_value(),
            idle_seconds=settings.openai_idle_seconds,
            connections=2 * settings.openai_concurrency,
        )
    )
    return OpenAiClient(http=http, base_url=settings.openai_base_url, clock=runtime.clock)


def _openai_generation(settings: LlmGatewaySettings, client: OpenAiClient) -> OpenAiGeneration:
    return OpenAiGeneration(
        client=client,
        model=settings.openai_model,
        response_format=settings.openai_response_format,
        # OpenAI's own endpoint has renamed the field, and its newer models refuse the old name.
        max_tokens_field="max_completion_tokens" if "//api.openai.com" in settings.openai_base_url else "max_tokens",
    )


def _openai_embedding(settings: LlmGatewaySettings, client: OpenAiClient) -> OpenAiEmbedding:
    return OpenAiEmbedding(
        client=client,
        model=settings.openai_embedding_model,
        dimension=settings.openai_embedding_dimension,
        batch_texts=settings.openai_embedding_batch,
    )
