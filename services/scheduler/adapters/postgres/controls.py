"""What operators set: paused types, weights of projects, limits of keys."""

from services.scheduler.adapters.postgres.session import Session
from services.scheduler.application.ports import Steering

PAUSE = "INSERT INTO scheduler.paused_types (type) VALUES ($1) ON CONFLICT DO NOTHING"
RESUME = "DELETE FROM scheduler.paused_types WHERE type = $1"
WEIGH = """
INSERT INTO scheduler.project_weights (project_id, weight) VALUES ($1, $2)
ON CONFLICT (project_id) DO UPDATE SET weight = excluded.weight
"""
LIMIT = """
INSERT INTO scheduler.key_limits (limit_key, max_in_flight, max_per_second, tokens)
VALUES ($1, $2, $3::float8, greatest($3::float8, 1))
ON CONFLICT (limit_key) DO UPDATE SET
    max_in_flight = excluded.max_in_flight, max_per_second = excluded.max_per_second, tokens = excluded.tokens
"""


class PostgresControls:
    def __init__(self, session: Session) -> None:
        self._session = session

    async def steering(self) -> Steering:
        paused = await self._session.fetch("SELECT type FROM scheduler.paused_types")
        weights = await self._session.fetch("SELECT project_id, weight FROM scheduler.project_weights")
        return Steering(
            paused_types=frozenset(record[0] for record in paused),
            weights={record[0]: record[1] for record in weights},
        )

    async def pause(self, job_type: str) -> None:
        await self._session.fetch(PAUSE, job_type)

    async def resume(self, job_type: str) -> None:
        await self._session.fetch(RESUME, job_type)

    async def set_weight(self, project_id: str, weight: float) -> None:
        await self._session.fetch(WEIGH, project_id, weight)

    async def set_key_limit(self, limit_key: str, *, max_in_flight: int, max_per_second: float) -> None:
        await self._session.fetch(LIMIT, limit_key, max_in_flight, max_per_second)
