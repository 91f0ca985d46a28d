"""What every writing adapter must know of its replica."""

from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from services.scheduler.domain.policy import Policies


@dataclass(frozen=True, slots=True, kw_only=True)
class Dispatch:
    """What every writing adapter needs to know: who writes, by which policies, how fast jobs age."""

    replica_id: UUID
    policies: Policies
    ageing: timedelta
