"""Where the services are sought."""

import os
from pathlib import Path

import pytest

from deploy.local import state
from deploy.local.environment import ports
from deploy.local.home import Home
from services.cli import local

OWN = state.StackStatus(running=True, pid=os.getpid(), ports=ports({"SCRISTILL_PORT_BASE": "9100"}))
"""Of a supervisor that this process would be."""


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {"SCRISTILL_HOME": str(tmp_path)}


def test_default_ports_hold_without_a_stack(environ: dict[str, str]) -> None:
    found = local.endpoints(environ)

    assert found.services["scheduler"] == "127.0.0.1:7401"
    assert found.services["indexer"] == "127.0.0.1:7403"
    assert found.traces is None


def test_running_stack_tells_its_ports(environ: dict[str, str], tmp_path: Path) -> None:
    home = Home(root=tmp_path)
    with state.held_lock(home):
        state.write(
            home, state.StackStatus(running=True, pid=os.getpid(), ports=ports({"SCRISTILL_PORT_BASE": "9100"}))
        )

        found = local.endpoints(environ)

    assert found.services["extractor"] == "127.0.0.1:9102"
    assert found.traces == "http://127.0.0.1:9117"


def test_stack_that_has_ended_tells_nothing(environ: dict[str, str], tmp_path: Path) -> None:
    state.write(
        Home(root=tmp_path),
        state.StackStatus(running=True, pid=os.getpid(), ports=ports({"SCRISTILL_PORT_BASE": "9100"})),
    )

    assert local.endpoints(environ).services["extractor"] == "127.0.0.1:7402"


def test_variable_of_the_user_wins(environ: dict[str, str]) -> None:
    found = local.endpoints({**environ, "SCRISTILL_INDEXER_ADDRESS": "search.example:443"})

    assert found.services["indexer"] == "search.example:443"
    assert found.services["scheduler"] == "127.0.0.1:7401"
