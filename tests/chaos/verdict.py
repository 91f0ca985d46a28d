"""What is true of a project after a fault, judged against what its library was answered for.

PostgreSQL is read through the extractor's contract, the index through Qdrant itself.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import astuple, dataclass

from qdrant_client import AsyncQdrantClient
from qdrant_client import models as qdrant_models
from scristill.extractor.v1 import consistency_service_pb2 as consistency_pb
from scristill.extractor.v1 import extraction_pb2, source_pb2

from tests.chaos.library import Shelf, number_in
from tests.support.invariants import Peers

PAGE = 1000
ALIAS = "facts"
FIELDS = ["fact_id", "version", "source_id", "tombstone", "statement"]
RECONCILED_WITHIN = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    point_id: str
    fact_id: str
    version: int
    source_id: str
    statement: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Every list is empty when all is well."""

    lost: Sequence[str]
    """Sentences without a live fact, sources that are missing or not whole, facts without a live point."""
    duplicated: Sequence[str]
    """Facts that are live twice, and points of one fact."""
    orphaned: Sequence[str]
    """Facts whose embedding id names no point of theirs at their version, and live points without a fact."""
    resurrected: Sequence[str]
    """Live facts and points of what was deleted or edited away."""
    untrue: Sequence[str]
    """Sources that claim more than is true, and stores that do not agree."""

    @property
    def holds(self) -> bool:
        return not any(astuple(self))


async def judged(
    peers: Peers,
    qdrant: AsyncQdrantClient,
    shelf: Shelf,
    project_id: str,
    certificate: consistency_pb.ConsistencyCertificate,
) -> Verdict:
    """Of a project at rest."""
    sources = {source.uri: source async for source in peers.list_sources(project_id)}
    facts = [fact async for fact in peers.stream_facts(project_id)]
    points = await live_points(qdrant, project_id)
    return Verdict(
        lost=_lost(shelf, sources, facts, points),
        duplicated=_duplicated(facts, points),
        orphaned=_orphaned(facts, points),
        resurrected=_resurrected(shelf, sources, facts, points),
        untrue=_untrue(sources, facts, certificate),
    )


async def live_points(qdrant: AsyncQdrantClient, project_id: str) -> list[Point]:
    match = qdrant_models.MatchValue(value=project_id)
    of_project = qdrant_models.Filter(must=[qdrant_models.FieldCondition(key="project_id", match=match)])
    points: list[Point] = []
    offset = None
    while True:
        page, offset = await qdrant.scroll(
            ALIAS, scroll_filter=of_project, limit=PAGE, offset=offset, with_payload=FIELDS, with_vectors=False
        )
        points += [
            Point(
                point_id=str(record.id),
                fact_id=record.payload["fact_id"],
                version=record.payload["version"],
                source_id=record.payload["source_id"],
                statement=record.payload["statement"],
            )
            for record in page
            if not record.payload["tombstone"]
        ]
        if offset is None:
            return points


async def certified(peers: Peers) -> consistency_pb.ConsistencyCertificate:
    """Compares the stores as an operator would have it done, by a run that has begun after this call."""
    attached, certificate = True, None
    while attached:
        async for frame in peers.consistency.Reconcile(consistency_pb.ReconcileRequest(), timeout=RECONCILED_WITHIN):
            if frame.HasField("opened"):
                attached = frame.opened.attached
            if frame.HasField("certificate"):
                certificate = frame.certificate
    assert certificate is not None
    return certificate


Facts = Sequence[extraction_pb2.Extraction]
Sources = dict[str, source_pb2.Source]


def _lost(shelf: Shelf, sources: Sources, facts: Facts, points: Sequence[Point]) -> list[str]:
    found = {number_in(fact.statement) for fact in facts}
    indexed = {point.fact_id for point in points}
    sentences = [each for text in shelf.texts.values() for each in text]
    return [
        *(f"no fact of: {each}" for each in sentences if number_in(each) not in found),
        *(f"no source {uri}" for uri in shelf.texts if uri not in sources),
        *(
            f"source {uri} is {source_pb2.SourceState.Name(source.state)} ({source.message}), version "
            f"{source.visible_version} of {source.version}"
            for uri, source in sources.items()
            if source.state != source_pb2.SOURCE_STATE_EXTRACTED or source.visible_version != source.version
        ),
        *(f"no live point of: {fact.statement}" for fact in facts if fact.extraction_id not in indexed),
    ]


def _duplicated(facts: Facts, points: Sequence[Point]) -> list[str]:
    names = Counter((fact.source_id, fact.group, fact.item_key) for fact in facts)
    of_facts = Counter(point.fact_id for point in points)
    return [
        *(f"{count} facts {name}" for name, count in names.items() if count > 1),
        *(f"{count} points of fact {fact_id}" for fact_id, count in of_facts.items() if count > 1),
    ]


def _orphaned(facts: Facts, points: Sequence[Point]) -> list[str]:
    known = {fact.extraction_id for fact in facts}
    named = {(point.point_id, point.fact_id, point.version) for point in points}
    return [
        *(
            f"fact {fact.extraction_id} version {fact.version} says its point is {fact.embedding_id or 'nowhere'}"
            for fact in facts
            if (fact.embedding_id, fact.extraction_id, fact.version) not in named
        ),
        *(f"point without fact: {point.statement}" for point in points if point.fact_id not in known),
    ]


def _resurrected(shelf: Shelf, sources: Sources, facts: Facts, points: Sequence[Point]) -> list[str]:
    retired = {number_in(each) for each in shelf.retired}
    live = {shelf.source_ids[uri] for uri in shelf.texts}
    return [
        *(f"source {uri}" for uri in sources if uri not in shelf.texts),
        *(f"fact: {fact.statement}" for fact in facts if number_in(fact.statement) in retired),
        *(
            f"point: {point.statement}"
            for point in points
            if number_in(point.statement) in retired or point.source_id not in live
        ),
    ]


def _untrue(sources: Sources, facts: Facts, certificate: consistency_pb.ConsistencyCertificate) -> list[str]:
    counts = Counter(fact.source_id for fact in facts)
    claims = [
        f"source {uri} claims {source.extraction_count} facts and {source.indexed_count} indexed, has "
        f"{counts[source.source_id]}"
        for uri, source in sources.items()
        if not source.extraction_count == source.indexed_count == counts[source.source_id]
    ]
    if certificate.fact_digest != certificate.point_digest or certificate.fact_count != certificate.point_count:
        claims.append(f"digests of {certificate.fact_count} facts and {certificate.point_count} points differ")
    return claims + [f"drift {kind}: {count}" for kind, count in certificate.drift_counts.items()]
