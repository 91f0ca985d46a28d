"""Process tables for tests of the supervisor: real engines, and toy services that are one line of Python."""

import sys
from collections.abc import Sequence

from deploy.local import table
from deploy.local.environment import Layout
from deploy.local.probes import NotReady
from deploy.local.process import Kind, Launch, Process

AWAKE = "import os, pathlib, time; pathlib.Path(os.environ['TOY_AWAKE']).touch(); print('awake', flush=True)"
SLEEP = f"{AWAKE}; time.sleep(3600)"


def toy(
    layout: Layout,
    name: str,
    program: str,
    *,
    kind: Kind = Kind.SERVICE,
    needs: Sequence[str] = (),
    stop_within: float = 10.0,
) -> Process:
    """A service is ready when its program has come to AWAKE."""
    awake = layout.home.root / f"{name}.awake"

    def launch() -> Launch:
        awake.unlink(missing_ok=True)
        return Launch(command=[sys.executable, "-c", program])

    async def probe() -> None:
        if not awake.exists():
            raise NotReady

    return Process(
        name=name,
        kind=kind,
        launch=launch,
        environment={**layout.engine_environment(), "TOY_AWAKE": str(awake)},
        needs=tuple(needs),
        probe=None if kind is Kind.STEP else probe,
        stop_within=stop_within,
    )


def postgres(layout: Layout) -> list[Process]:
    return [process for process in table.engines(layout) if process.name == "postgres"]


def engines_and_toy(layout: Layout) -> list[Process]:
    engines = [process for process in table.engines(layout) if process.name != "qdrant"]
    return [*engines, toy(layout, "toy", SLEEP, needs=[engine.name for engine in engines])]


def sleeper(layout: Layout) -> list[Process]:
    return [toy(layout, "sleeper", SLEEP)]


def family(layout: Layout) -> list[Process]:
    """A service with a worker process that would outlive it."""
    program = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {SLEEP!r}])"  # the child says AWAKE
    return [toy(layout, "family", program)]


def heir(layout: Layout) -> list[Process]:
    """A service with a child in a group of its own that holds the service's output open."""
    child = "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(20)'], start_new_session=True)"
    return [toy(layout, "heir", f"import subprocess, sys; {child}; {SLEEP}")]


def listener(layout: Layout) -> list[Process]:
    traces = [process for process in table.engines(layout) if process.name == "traces"]
    return [*traces, toy(layout, "sleeper", SLEEP)]


def stubborn(layout: Layout) -> list[Process]:
    program = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEP}"
    return [toy(layout, "stubborn", program, stop_within=60.0)]


def impatient(layout: Layout) -> list[Process]:
    program = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEP}"
    return [toy(layout, "stubborn", program, stop_within=0.2)]


def broken(layout: Layout) -> list[Process]:
    program = "import sys; print('one'); sys.exit('no such setting: COLOUR')"
    return [*sleeper(layout), toy(layout, "broken", program)]


def steps(layout: Layout) -> list[Process]:
    migrate = toy(layout, "migrate", "import time; time.sleep(0.2); print('migrated')", kind=Kind.STEP)
    return [migrate, toy(layout, "service", SLEEP, needs=["migrate"])]


def broken_step(layout: Layout) -> list[Process]:
    migrate = toy(layout, "migrate", "raise SystemExit('revision 0007 is unknown')", kind=Kind.STEP)
    return [migrate, toy(layout, "service", SLEEP, needs=["migrate"])]
