"""Registers the fixtures that all tests share; see tests/support/fixtures.py."""

pytest_plugins = ["tests.support.fixtures"]
