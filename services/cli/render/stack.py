"""The processes of the local stack, and what is in it."""

from collections.abc import Mapping
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from deploy.local.process import ProcessStatus, State
from deploy.local.state import StackStatus
from services.cli.render.tables import cell, table

MEGABYTE = 1_000_000
STYLES = {State.READY: "green", State.DONE: "dim", State.FAILED: "red", State.BACKOFF: "red", State.STOPPED: "yellow"}


def processes(current: StackStatus) -> RenderableType:
    made = table("PROCESS", "STATE", "ADDRESS", "PID", "RESTARTS", "MEMORY", right=("PID", "RESTARTS", "MEMORY"))
    for process in current.processes:
        made.add_row(
            process.name,
            Text(process.state, STYLES.get(process.state, "cyan")),
            process.address or "-",
            str(process.pid or "-"),
            str(process.restarts),
            memory(process.rss_bytes),
        )
    made.add_row(cell("total", "dim"), "", "", "", "", memory(current.rss_bytes))
    return made


def process_document(process: ProcessStatus) -> dict[str, Any]:
    return {
        "name": process.name,
        "kind": process.kind.value,
        "state": process.state.value,
        "address": process.address,
        "pid": process.pid,
        "restarts": process.restarts,
        "memory_bytes": process.rss_bytes,
    }


def counts_line(counts: Mapping[str, int]) -> Text:
    """`projects 3  sources 39 …` with what needs attention in colour."""
    line = Text()
    for name, count in counts.items():
        attention = name == "dead_letters" and count
        line.append("  " if line else "")
        line.append(f"{name.replace('_', ' ')} {count:,}", "red" if attention else "")
    return line


def memory(size: int) -> str:
    return f"{size / MEGABYTE:,.0f} MB" if size else "-"
