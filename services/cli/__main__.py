"""`scristill`, also as `python -m services.cli`."""

import sys

from services.cli.app import app


def main() -> None:
    # A name that the terminal's encoding lacks is printed escaped.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
    app(prog_name="scristill")


if __name__ == "__main__":
    main()
