"""`python -m tests.sim [--steps N] [--seed S] [--guard-steps N] [--round N]`: the last line is one JSON object."""

import argparse
import json
import os
import sys
import time
from random import SystemRandom

from tests.sim.guards import GUARDS, catch
from tests.sim.rounds import Round, quiet, rounds, run_round


def main() -> int:
    options = _options()
    if options.round is not None:
        return _replay(f"{options.seed}:{options.round}")
    started = time.perf_counter()
    steps, violations = _storm(seed=options.seed, steps=options.steps)
    seconds = time.perf_counter() - started
    caught = _guards(seed=options.seed, steps=options.guard_steps)
    print(
        json.dumps(
            {
                "steps": steps,
                "violations": violations,
                "guards": len(GUARDS),
                "guards_caught": caught,
                "seed": options.seed,
                "seconds": round(seconds, 1),
                "steps_per_s": round(steps / seconds),
            }
        )
    )
    return 0 if not violations and caught == len(GUARDS) else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.sim")
    parser.add_argument("--steps", type=int, default=1_000_000, help="steps with all guards in place")
    parser.add_argument("--seed", type=int, default=None, help="the same seed gives the same run")
    parser.add_argument("--guard-steps", type=int, default=2_000_000, help="steps per removed guard at most")
    parser.add_argument("--round", type=int, default=None, help="run this round of the seed alone")
    options = parser.parse_args()
    if options.seed is None:
        options.seed = SystemRandom().randrange(1 << 32)
    return options


def _storm(*, seed: int, steps: int) -> tuple[int, int]:
    done = shown = 0
    for result in rounds(seed=seed, steps=steps):
        done += result.steps
        if result.violation:
            _show(result)
            return done, 1
        if done // 100_000 > shown:
            shown = done // 100_000
            print(f"{done} steps, no violation", flush=True)
    return done, 0


def _guards(*, seed: int, steps: int) -> int:
    caught = 0
    for guard in GUARDS:
        done, violation = catch(guard, seed=seed, steps=steps)
        caught += bool(violation)
        print(f"without {guard:<38} {violation[:90] if violation else 'NOT CAUGHT'} ({done} steps)", flush=True)
    return caught


def _replay(seed: str) -> int:
    with quiet():
        result = run_round(seed)
    _show(result)
    return int(bool(result.violation))


def _show(result: Round) -> None:
    print(f"round {result.seed}: {result.steps} steps, {result.violation or 'no violation'}")
    print("\n".join(result.trace))


if __name__ == "__main__":
    if os.environ.get("PYTHONHASHSEED") != "0":
        # Sets of strings iterate by their hash: a fixed one makes a seed mean the same in every process.
        os.execve(
            sys.executable, [sys.executable, "-m", "tests.sim", *sys.argv[1:]], {**os.environ, "PYTHONHASHSEED": "0"}
        )
    sys.exit(main())
