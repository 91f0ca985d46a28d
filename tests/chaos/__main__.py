"""`python -m tests.chaos [--schedules N] [--seed S] [--schedule K]`: the last line is one JSON object."""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path
from random import SystemRandom

from tests.chaos.scene import LONG, running_world
from tests.chaos.schedules import Report, drawn, play


async def run(options: argparse.Namespace, root: Path) -> Report:
    report = Report(seed=options.seed)
    numbers = [options.schedule] if options.schedule is not None else range(options.schedules)
    async with running_world(root, LONG) as world:
        for number in numbers:
            schedule = drawn(f"{options.seed}:{number}")
            print(schedule, flush=True)
            verdict = await play(world, schedule)
            report.add(schedule, verdict)
            if not verdict.holds:
                print(f"schedule {schedule.seed}: {verdict}", flush=True)
    return report


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos")
    parser.add_argument("--schedules", type=int, default=30)
    parser.add_argument("--seed", type=int, default=None, help="the same seed gives the same schedules")
    parser.add_argument("--schedule", type=int, default=None, help="play this schedule of the seed alone")
    options = parser.parse_args()
    if options.seed is None:
        options.seed = SystemRandom().randrange(1 << 32)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="scristill-chaos-") as root:
        report = asyncio.run(run(options, Path(root) / "home"))
    seconds = round(time.monotonic() - started, 1)
    figures = {"schedules": report.schedules, "strikes": report.strikes, **report.counts}
    print(json.dumps({**figures, "seed": report.seed, "seconds": seconds}))
    return int(any(report.counts.values()))


if __name__ == "__main__":
    sys.exit(main())
