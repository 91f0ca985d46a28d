"""One process of the stack, as it is declared and as it is seen."""

import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from deploy.local.probes import Probe


class Kind(StrEnum):
    ENGINE = "engine"
    STEP = "step"
    """Runs to its end, with status 0, before what needs it starts."""
    SERVICE = "service"


class State(StrEnum):
    """
    WAITING > STARTING > READY > STOPPED
                 ^ |       |
                 | v       v
               BACKOFF <---+      (a step ends DONE; a first start that fails is FAILED, and ends the stack)
    """

    WAITING = "waiting"
    STARTING = "starting"
    READY = "ready"
    BACKOFF = "backoff"
    DONE = "done"
    FAILED = "failed"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    command: Sequence[str]
    options: Sequence[str] = ()
    """Further ones of launch.py."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """A declaration. Processes are listed in the order of their start and stopped in reverse."""

    name: str
    kind: Kind
    launch: Callable[[], Launch]
    """Called before each start, in a thread: it may create or repair what the process needs."""
    environment: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    """All of it; nothing is inherited."""
    needs: tuple[str, ...] = ()
    """Names of processes that must be ready, or done, before this one starts."""
    ports: Mapping[str, int] = field(default_factory=dict[str, int])
    """The ports it will listen on, by the variable that changes each."""
    address: str = ""
    probe: Probe | None = field(default=None, repr=False)
    """None for steps, which are ready when they are done."""
    stop_signal: signal.Signals = signal.SIGTERM
    ready_within: float = 60.0
    stop_within: float = 30.0
    """Then it is killed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessStatus:
    """A process as the supervisor last saw it."""

    name: str
    kind: Kind
    state: State
    pid: int | None
    address: str
    restarts: int
    created: float | None = None
    """Start time by the system's record, which tells a reused pid from the process."""
    rss_bytes: int = 0
    """Of the process with all its children, shared pages counted once where the system can tell."""
