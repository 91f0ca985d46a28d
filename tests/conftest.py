"""Registers the fixtures that all tests share; see tests/support/fixtures.py."""

import signal

pytest_plugins = ["tests.support.fixtures"]


def pytest_configure() -> None:
    """A run in the background inherits an ignored interrupt, and so would every process that a test interrupts."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
