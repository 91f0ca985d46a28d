"""The models on offer, by name, each with the queue in front of it."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from services.llm_gateway.application.admission import Admission
from services.llm_gateway.application.attempts import GenerationRoute
from services.llm_gateway.application.ports import EmbeddingProvider
from services.llm_gateway.domain.calls import ModelInfo
from services.llm_gateway.domain.errors import ModelNotFound

RouteT = TypeVar("RouteT")


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingRoute:
    provider: EmbeddingProvider
    admission: Admission


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    model: ModelInfo
    is_default: bool


class Catalogue:
    """The first route of each kind serves requests that name no model."""

    def __init__(self, *, generation: Iterable[GenerationRoute], embedding: Iterable[EmbeddingRoute]) -> None:
        self._generation = {route.provider.model.name: route for route in generation}
        self._embedding = {route.provider.model.name: route for route in embedding}

    def generation(self, model: str) -> GenerationRoute:
        return _find(self._generation, model)

    def embedding(self, model: str) -> EmbeddingRoute:
        return _find(self._embedding, model)

    def queues(self) -> Iterator[tuple[ModelInfo, Admission]]:
        """Every model with the queue in front of it."""
        for routes in (self._generation, self._embedding):
            for route in routes.values():
                yield route.provider.model, route.admission

    def offers(self) -> list[Offer]:
        """By name."""
        offers = [
            Offer(model=route.provider.model, is_default=number == 0)
            for routes in (self._generation, self._embedding)
            for number, route in enumerate(routes.values())
        ]
        return sorted(offers, key=lambda offer: (offer.model.name, offer.model.operation))


def _find(routes: dict[str, RouteT], model: str) -> RouteT:
    if not model and routes:
        return next(iter(routes.values()))
    if model not in routes:
        raise ModelNotFound.named(model or "(default)")
    return routes[model]
