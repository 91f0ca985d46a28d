"""What became of one path, and the tally over all of them."""

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from uuid import UUID


class Fate(StrEnum):
    CREATED = "created"
    """A new source, or a new version of one; its job is on the way."""
    UNCHANGED = "unchanged"
    """The stack holds this content already."""
    SKIPPED = "skipped"
    """Not worth extracting, or not a file; `reason` says why."""
    FAILED = "failed"
    HIDDEN = "hidden"
    """Left out because its name begins with a dot; of a directory, all of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    path: str
    fate: Fate
    reason: str = ""
    source_id: str = ""
    version: int = 0
    job_id: str = ""


@dataclass(slots=True, kw_only=True)
class Tally:
    """Counts and the exceptions; of the sources themselves only their ids, so that a million paths fit."""

    counts: Counter[Fate] = field(default_factory=Counter[Fate])
    exceptions: list[Outcome] = field(default_factory=list[Outcome])
    """Skipped and failed."""
    accepted: set[UUID] = field(default_factory=set[UUID])
    """Sources that are extracted or will be."""
    complete: bool = False
    """Every path has an outcome."""

    def add(self, outcome: Outcome) -> None:
        self.counts[outcome.fate] += 1
        if outcome.fate in (Fate.SKIPPED, Fate.FAILED):
            self.exceptions.append(outcome)
        elif outcome.source_id:
            self.accepted.add(UUID(outcome.source_id))
