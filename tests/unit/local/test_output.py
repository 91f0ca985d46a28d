"""Lines of the processes on their way to the files and the terminal."""

import os
import re
from concurrent.futures import ThreadPoolExecutor

import pytest

from deploy.local.output import QUEUED_LINES, Output
from deploy.local.rotation import newest_first
from tests.support.waiting import eventually


@pytest.fixture
def terminal():
    """A pipe in place of a terminal."""
    read_end, write_end = os.pipe()
    with os.fdopen(read_end, "rb") as screen, os.fdopen(write_end, "wb") as terminal:
        yield screen, terminal


def read(terminal):
    screen, writer = terminal
    writer.close()
    return screen.read().decode()


async def test_a_terminal_that_stands_still_holds_nothing_up_and_files_stay_complete(terminal, tmp_path):
    screen, writer = terminal
    total = 2 * QUEUED_LINES + 1
    with ThreadPoolExecutor() as reader:
        with Output(tmp_path, names=["toy"], terminal=writer.fileno()) as output:
            for _ in range(total - 1):
                output.write("toy", "x" * 1000)
            text = reader.submit(screen.read)
            await eventually(output._queue.empty)
            output.write("toy", "at last")
        writer.close()
        shown = text.result().decode()

    (skipped,) = re.findall(r"\.\.\. (\d+) lines are in the files only\n", shown)
    assert shown.count(" | ") + int(skipped) == total
    assert sum(file.read_bytes().count(b"\n") for file in newest_first(tmp_path / "toy.log")) == total


def test_names_are_aligned_and_coloured_on_request(terminal, tmp_path):
    with Output(tmp_path, names=["toy", "scheduler"], terminal=terminal[1].fileno(), colour=True) as output:
        output.write("toy", "hello")

    assert read(terminal) == "\033[36mtoy      \033[0m | hello\n"


def test_a_closed_terminal_ends_the_display_and_nothing_else(terminal, tmp_path):
    screen, writer = terminal
    screen.close()
    with Output(tmp_path, names=["toy"], terminal=writer.fileno()) as output:
        for _ in range(100):
            output.write("toy", "hello")

    assert (tmp_path / "toy.log").read_text() == "hello\n" * 100


def test_a_full_disk_costs_lines_and_is_told_once(terminal, tmp_path):
    with Output(tmp_path / "missing", names=["toy"], terminal=terminal[1].fileno()) as output:
        output.write("toy", "one")
        output.write("toy", "two")

    assert output.tail("toy") == ["one", "two"]
    assert read(terminal).count("cannot write logs") == 1
