"""Gateways as a client sees them: the production wiring on a real Valkey, a scripted provider behind it."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from services.llm_gateway.settings import LlmGatewaySettings
from tests.integration.llm_gateway import gateway
from tests.integration.llm_gateway.gateway import Gateway, StartGateway
from tests.support.provider import FakeProvider


@pytest.fixture
async def provider() -> AsyncIterator[FakeProvider]:
    async with FakeProvider() as provider:
        yield provider


@pytest.fixture
async def start_gateway(valkey_url: str, provider: FakeProvider) -> AsyncIterator[StartGateway]:
    """`await start_gateway(max_attempts=1)`: a replica with the scripted provider as its only model that generates."""
    async with AsyncExitStack() as stack:

        async def start(**overrides: Any) -> Gateway:
            given = {
                "port": 0,
                "redis_url": valkey_url,
                "openai_base_url": provider.base_url,
                "openai_model": "fake",
                "linguistic_processes": 0,
                "wordllama": False,
                "drain_seconds": 2.0,
            }
            return await gateway.start(LlmGatewaySettings(**(given | overrides)), stack)

        yield start
