"""`python -m deploy.local.qdrant --storage DIR --port N [--host 127.0.0.1]`."""

import argparse
import asyncio
import importlib.util
import logging
import signal
import sys
from pathlib import Path
from types import ModuleType

from deploy.local.qdrant.errors import StandInError


def main() -> int:
    arguments = _parse()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        _leave_the_client_out()
        asyncio.run(_serve(arguments))
    except StandInError as error:
        print(f"qdrant stand-in: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


def _leave_the_client_out() -> None:
    """Lets `qdrant_client.grpc` be imported without the client around it, which takes a second and 45 MB."""
    spec = importlib.util.find_spec("qdrant_client")
    if spec is None or spec.submodule_search_locations is None:
        raise StandInError("the package qdrant-client is not installed")
    package = ModuleType("qdrant_client")
    package.__path__ = spec.submodule_search_locations
    sys.modules["qdrant_client"] = package


async def _serve(arguments: argparse.Namespace) -> None:
    from deploy.local.qdrant.server import serve  # noqa: PLC0415 - it imports the messages

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stop.set)
    await serve(root=arguments.storage, host=arguments.host, port=arguments.port, stop=stop)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m deploy.local.qdrant", description=__doc__)
    parser.add_argument("--storage", type=Path, required=True, help="directory of the data; created if missing")
    parser.add_argument("--port", type=int, required=True, help="gRPC port; 0 takes a free one and logs it")
    parser.add_argument("--host", default="127.0.0.1")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
