"""The process that reads language: `python -m services.llm_gateway.adapters.linguistic.worker`.

Answers `{"documents": [text, …]}` with `{"findings": [{"facts": …, "entities": …}, …]}`,
in order, over standard input and output. It ends when its input does; signals are left to the parent.
"""

import os
import signal
import sys
from dataclasses import asdict
from typing import Any, BinaryIO

from services.llm_gateway.adapters.linguistic import wire
from services.llm_gateway.adapters.linguistic.reading import Reading


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    # Whatever a library prints must not end up between the answers.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb", buffering=0)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    reading = Reading()
    _send(answers, {"ready": True})
    while (request := _receive(sys.stdin.buffer)) is not None:
        _send(answers, {"findings": [asdict(reading.of(document)) for document in request["documents"]]})


def _receive(stream: BinaryIO) -> dict[str, Any] | None:
    header = stream.read(wire.HEADER_BYTES)
    if len(header) < wire.HEADER_BYTES:
        return None
    return wire.unpacked(stream.read(wire.size_of(header)))


def _send(stream: Any, message: dict[str, Any]) -> None:
    data = memoryview(wire.packed(message))
    while data:
        data = data[stream.write(data) :]


if __name__ == "__main__":
    main()
