"""`python -m deploy.local.traces`: the collector."""

import argparse
import asyncio
import sys
from pathlib import Path

from deploy.local.traces.collector import serve


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m deploy.local.traces", description=__doc__)
    parser.add_argument("--directory", type=Path, required=True, help="where the spans are kept")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    try:
        asyncio.run(serve(directory=options.directory, host=options.host, port=options.port))
    except OSError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
