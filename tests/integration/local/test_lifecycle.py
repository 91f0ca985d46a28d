"""Start, stop, restart; and that nothing is ever left behind."""

import os
import signal
import sys

import asyncpg
import psutil
import pytest

from deploy.local import families, stack
from deploy.local.home import Home
from deploy.local.process import State
from tests.support.local_stack import local_stack
from tests.support.waiting import eventually


@pytest.fixture
def local(tmp_path):
    with local_stack(tmp_path / "home") as running:
        yield running


async def execute(local, statement):
    url = stack.environment(local.home, local.environ)["SCHEDULER_DATABASE_URL"]
    connection = await asyncpg.connect(url, timeout=10)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


async def until_logged(local, name, text):
    log = local.home.logs / f"{name}.log"
    await eventually(lambda: log.exists() and text in log.read_text())


async def test_engines_serve_and_ctrl_c_leaves_nothing_but_the_data(local):
    status = await local.start_and_wait("engines_and_toy")

    assert [process.state for process in status.processes] == [State.READY] * 4
    assert all(process.rss_bytes > 0 for process in status.processes)
    await execute(local, "CREATE TABLE kept AS SELECT 42 AS answer")
    local.signal(signal.SIGINT)
    output = local.output()
    assert local.process.returncode == 0, output
    assert local.left() == []
    assert not local.status.running

    await local.start_and_wait("engines_and_toy")
    assert await execute(local, "SELECT answer FROM kept") == 42


async def test_processes_stop_in_reverse_order(local):
    await local.start_and_wait("engines_and_toy")
    local.signal(signal.SIGTERM)
    output = local.output()

    assert output.index("Valkey is now ready to exit") < output.index("received fast shutdown request")


async def test_lines_of_all_processes_are_streamed_with_their_names_and_kept(local):
    await local.start_and_wait("engines_and_toy")
    await until_logged(local, "toy", "awake")
    local.signal(signal.SIGTERM)
    output = local.output()

    assert "toy      | awake\n" in output
    assert "postgres | " in output
    assert (local.home.logs / "toy.log").read_text() == "awake\n"
    assert "\033[" not in output


async def test_kill_of_the_supervisor_leaves_nothing(local):
    await local.start_and_wait("engines_and_toy")
    local.signal(signal.SIGKILL)

    await eventually(lambda: not local.left(), within=15)
    assert len(local.seen) > 10, "PostgreSQL's own processes were looked at"


async def test_kill_of_the_supervisor_ends_the_children_of_services(local):
    await local.start_and_wait("family")
    assert len(psutil.Process(local.of("family").pid).children()) == 1
    local.signal(signal.SIGKILL)

    await eventually(lambda: not local.left(), within=15)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of its parent's death")
async def test_kill_of_supervisor_and_guard_at_once_leaves_nothing(local):
    await local.start_and_wait("engines_and_toy")
    guard = guard_of(local)
    local.signal(signal.SIGSTOP)
    guard.kill()
    local.signal(signal.SIGKILL)

    await eventually(lambda: not local.left(), within=15)


async def test_a_killed_guard_is_replaced_and_guards_what_already_runs(local):
    # It ignores the stop signal, so that the kernel's signal cannot do the guard's work.
    await local.start_and_wait("stubborn")
    first = guard_of(local)
    first.kill()
    second = await eventually(lambda: guard_of(local) if guard_of(local) not in (None, first) else None)
    local.seen.append(second)
    local.signal(signal.SIGKILL)

    await eventually(lambda: not local.left(), within=15)


def guard_of(local):
    children = filter(families.is_alive, psutil.Process(local.process.pid).children())
    return next((child for child in children if any("guard.py" in part for part in child.cmdline())), None)


async def test_a_killed_engine_is_started_again_with_its_data(local):
    await local.start_and_wait("engines_and_toy")
    await execute(local, "CREATE TABLE kept AS SELECT 42 AS answer")
    before = local.of("postgres")
    os.kill(before.pid, signal.SIGKILL)

    def is_back():
        now = local.of("postgres")
        return now.state is State.READY and now.pid != before.pid

    await eventually(is_back, within=30)
    local.remember()
    assert local.of("postgres").restarts == 1
    assert local.of("toy").restarts == 0
    assert await execute(local, "SELECT answer FROM kept") == 42


async def test_a_service_whose_child_keeps_its_output_open_is_started_again_all_the_same(local):
    await local.start_and_wait("heir")
    before = local.of("heir").pid
    os.kill(before, signal.SIGKILL)

    await eventually(lambda: local.status.ready and local.of("heir").pid not in (None, before), within=15)
    local.remember()


async def test_a_second_start_is_refused_in_one_line(local):
    await local.start_and_wait("sleeper")

    for arguments in (["up"], ["up", "--detach"]):
        second = local.command(*arguments)
        assert second.returncode == 1
        assert second.stderr.count("\n") == 1
        assert f"already running (supervisor pid {local.process.pid})" in second.stderr
    assert local.status.ready


async def test_a_start_after_an_unclean_end_recovers(local):
    await local.start_and_wait("postgres")
    local.signal(signal.SIGKILL)
    await eventually(lambda: not local.left(), within=15)
    # In a container the old pid usually belongs to another program by now; PostgreSQL alone would refuse to start.
    pid_file = local.home.postgres / "data" / "postmaster.pid"
    pid_file.write_text(f"{os.getpid()}\n{pid_file.parent}\n0\n0\n\n127.0.0.1\n")

    await local.start_and_wait("postgres")
    assert await execute(local, "SELECT 1") == 1


async def test_detach_returns_when_ready_and_down_leaves_nothing(local):
    up = local.command("up", "--detach", "--table", "tests.support.toys:engines_and_toy")
    assert up.returncode == 0, up.stderr
    await local.ready()
    assert "toy" in up.stdout
    assert local.command("status").stdout.startswith("NAME")

    down = local.command("down")

    assert (down.returncode, down.stdout) == (0, "stopped\n")
    assert local.left() == []
    assert local.command("down").stdout.startswith("no stack is running in ")
    assert local.command("status").returncode == 1


async def test_down_ends_a_supervisor_that_hangs(local):
    await local.start_and_wait("sleeper")
    local.signal(signal.SIGSTOP)

    assert stack.down(local.home, within=0.2)
    local.process.wait()
    assert local.left() == []


async def test_a_process_that_ignores_the_stop_signal_is_killed_after_its_time(local):
    await local.start_and_wait("impatient")
    local.signal(signal.SIGTERM)

    assert "stubborn did not stop in time and is killed" in local.output()
    assert local.left() == []


async def test_a_second_ctrl_c_does_not_wait_for_the_drain(local):
    await local.start_and_wait("stubborn")
    local.signal(signal.SIGINT)
    await until_logged(local, "stack", "stopping")
    local.signal(signal.SIGINT)

    assert "stopping at once" in local.output()
    assert local.left() == []


async def test_steps_end_before_what_needs_them_starts(local):
    status = await local.start_and_wait("steps")

    assert [process.state for process in status.processes] == [State.DONE, State.READY]
    await until_logged(local, "service", "awake")
    local.signal(signal.SIGTERM)
    output = local.output()
    assert output.index("migrated") < output.index("awake")


@pytest.mark.parametrize(
    ("table", "line"),
    [
        ("broken", "broken did not start, status 1: no such setting: COLOUR"),
        ("broken_step", "migrate did not start, status 1: revision 0007 is unknown"),
    ],
)
async def test_a_process_that_does_not_start_stops_the_stack_with_its_last_words(local, table, line):
    local.start(table)
    output = local.output()

    assert local.process.returncode == 1
    last = output.strip().rpartition("\n")[2]
    assert last.startswith(f"scristill: {line} (log: {local.home.logs}")
    assert not local.status.running


async def test_detach_tells_why_a_process_did_not_start(local):
    up = local.command("up", "--detach", "--table", "tests.support.toys:broken")

    assert up.returncode == 1
    assert "no such setting: COLOUR" in up.stderr
    assert up.stderr.count("\n") == 1
    await eventually(lambda: not local.status.running)


async def test_the_environment_names_what_runs(local):
    await local.start_and_wait("sleeper")
    exported = local.command("env").stdout

    assert f"export EXTRACTOR_SCHEDULER_ADDRESS=127.0.0.1:{local.environ['SCHEDULER_PORT']}\n" in exported


def test_the_password_is_readable_by_its_owner_only(tmp_path):
    home = Home(root=tmp_path)
    home.password()

    assert (tmp_path / "password").stat().st_mode & 0o077 == 0
