"""The version of the suite, without the imports of a server."""

from importlib import metadata


def suite_version() -> str:
    try:
        return metadata.version("scristill")
    except metadata.PackageNotFoundError:
        return "0.0.0"
