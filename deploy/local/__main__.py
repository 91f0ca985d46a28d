"""`python -m deploy.local up|down|status|env`: the stack without the `scristill` command."""

import argparse
import asyncio
import os
import pkgutil
import shlex
import sys

try:
    from deploy.local import stack
    from deploy.local.errors import StackError
    from deploy.local.home import Home
    from deploy.local.process import ProcessStatus
    from deploy.local.state import StackStatus
except ModuleNotFoundError as error:
    sys.exit(f"the Python package {error.name} is missing: run `make setup`")

MEGABYTE = 1_000_000


def main() -> None:
    options = parse_options()
    try:
        sys.exit(options.command(options))
    except StackError as error:
        sys.exit(f"scristill: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m deploy.local", description=__doc__)
    commands = parser.add_subparsers(required=True)
    starting = commands.add_parser("up", help="start everything; Ctrl-C stops it")
    starting.add_argument("--detach", action="store_true", help="return when everything is ready")
    engines = "deploy.local.table:engines"
    starting.add_argument("--engines", action="store_const", dest="table", const=engines, help="without the services")
    starting.add_argument("--table", help=argparse.SUPPRESS)
    starting.add_argument("--report-fd", type=int, help=argparse.SUPPRESS)
    starting.set_defaults(command=up, table="deploy.local.table:process_table")
    commands.add_parser("down", help="stop everything").set_defaults(command=down)
    commands.add_parser("status", help="what runs, where, and its memory").set_defaults(command=status)
    commands.add_parser("env", help="the variables of the stack, for `eval`").set_defaults(command=env)
    return parser.parse_args()


def up(options: argparse.Namespace) -> int:
    processes = pkgutil.resolve_name(options.table)
    if options.detach:
        choice = stack.Options.from_environment(processes=processes)
        stack.detach(choice)
        show(stack.status(choice.home))
    elif options.report_fd is not None:
        up_in_background(processes, options.report_fd)
    else:
        asyncio.run(stack.run(stack.Options.from_environment(processes=processes, terminal=sys.stdout)))
    return 0


def up_in_background(processes: stack.Table, report_fd: int) -> None:
    observe, fail = stack.report_to(report_fd)
    try:
        asyncio.run(stack.run(stack.Options.from_environment(processes=processes, observe=observe)))
    except StackError as error:
        fail(str(error))
        raise


def down(_: argparse.Namespace) -> int:
    home = Home.from_environment(os.environ)
    say("stopped" if stack.down(home) else f"no stack is running in {home.root}")
    return 0


def status(_: argparse.Namespace) -> int:
    current = stack.status(Home.from_environment(os.environ))
    if not current.running:
        say(f"no stack is running in {current.home}")
        return 1
    show(current)
    return 0


def env(_: argparse.Namespace) -> int:
    for name, value in stack.environment(Home.from_environment(os.environ)).items():
        say(f"export {name}={shlex.quote(value)}")
    return 0


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")


def show(current: StackStatus) -> None:
    rows = [("NAME", "STATE", "PID", "ADDRESS", "RESTARTS", "MEMORY"), *map(row, current.processes)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for cells in rows:
        say("  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip())


def row(process: ProcessStatus) -> tuple[str, ...]:
    return (
        process.name,
        process.state,
        str(process.pid or "-"),
        process.address or "-",
        str(process.restarts),
        f"{process.rss_bytes / MEGABYTE:.0f} MB" if process.rss_bytes else "-",
    )


if __name__ == "__main__":
    main()
