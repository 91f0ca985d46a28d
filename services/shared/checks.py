"""What `--check` runs: one named probe per dependency, one line of output each."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """`run` returns when all is well and raises `CheckFailed` with one sentence when it is not."""

    name: str
    run: Callable[[], Awaitable[None]]


class CheckFailed(Exception):
    pass
