"""The one shape of every service's command line.

    python -m services.<name> [serve|migrate] [--check] [--print-config]

Exit status: 0 done, 1 failed, 2 bad usage or a bad variable.
"""

import argparse
import asyncio
import os
import sys
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, NoReturn

import structlog

from services.shared import process, supervisor
from services.shared.checks import Check, CheckFailed
from services.shared.service import WORKER_INDEX, ServiceDefinition, SettingsT, suite_version
from services.shared.settings import load, render, unknown_variables
from services.shared.telemetry import logging

logger = structlog.stdlib.get_logger(__name__)

_CHECK_SECONDS = 15.0


def run(definition: ServiceDefinition[SettingsT], arguments: Sequence[str] | None = None) -> NoReturn:
    """Parses the command line, does what it says and exits."""
    options = _parse(definition, arguments)
    settings = load(definition.settings)
    if options.print_config:
        sys.stdout.write(f"{render(settings)}\n")
        sys.exit(0)
    logging.configure(
        service=definition.name, version=suite_version(), level=settings.log_level, log_format=settings.log_format
    )
    for problem in unknown_variables(definition.settings):
        logger.warning("unknown_variable", problem=problem)
    if options.check:
        sys.exit(_run(lambda: _check(_checks(definition, settings))))
    if options.action == "migrate":
        sys.exit(_run(lambda: _migrate(definition, settings)))
    sys.exit(_run(lambda: _serve(definition, settings)))


def _parse(definition: ServiceDefinition[SettingsT], arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=f"python -m services.{definition.name}")
    actions = ["serve", "migrate"] if definition.migrations else ["serve"]
    parser.add_argument("action", nargs="?", choices=actions, default="serve")
    parser.add_argument("--check", action="store_true", help="check settings, dependencies and migrations, then exit")
    parser.add_argument("--print-config", action="store_true", help="print the settings without secrets, then exit")
    return parser.parse_args(arguments)


def _serve(definition: ServiceDefinition[SettingsT], settings: SettingsT) -> Coroutine[Any, Any, int]:
    if settings.workers > 1 and WORKER_INDEX not in os.environ:
        prefix = definition.settings.model_config.get("env_prefix", "")
        return supervisor.supervise(settings, port_variable=f"{prefix}PORT")
    return process.serve(definition, settings)


async def _migrate(definition: ServiceDefinition[SettingsT], settings: SettingsT) -> int:
    if definition.migrations is None:
        raise ValueError(f"{definition.name} has no migrations")
    from services.shared.database.migrations import upgrade  # noqa: PLC0415 - services without a database skip it

    applied = await upgrade(definition.migrations(settings))
    logger.info("migrated", applied=applied)
    return 0


def _checks(definition: ServiceDefinition[SettingsT], settings: SettingsT) -> list[Check]:
    checks = list(definition.checks(settings)) if definition.checks else []
    if definition.migrations:
        from services.shared.database.migrations import migrations_check  # noqa: PLC0415 - as above

        checks.append(migrations_check(definition.migrations(settings)))
    return checks


async def _check(checks: Sequence[Check]) -> int:
    """Runs all checks at once and prints a line for each, in order."""
    results = await asyncio.gather(*(_outcome(check) for check in checks))
    for check, problem in zip(checks, results, strict=True):
        sys.stdout.write(f"ok    {check.name}\n" if problem is None else f"FAIL  {check.name}: {problem}\n")
    return int(any(problem is not None for problem in results))


async def _outcome(check: Check) -> str | None:
    try:
        async with asyncio.timeout(_CHECK_SECONDS):
            await check.run()
    except CheckFailed as failure:
        return str(failure)
    except TimeoutError:
        return f"no answer within {_CHECK_SECONDS:g} s"
    except Exception as error:
        logger.debug("check_error", check=check.name, exc_info=error)
        return f"{type(error).__name__}"
    return None


def _run(action: Callable[[], Coroutine[Any, Any, int]]) -> int:
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        try:
            return runner.run(action())
        except OSError as error:
            logger.error("failed", problem=str(error))  # noqa: TRY400 - one line; the traceback says no more
            return 1
        except Exception:
            logger.exception("failed")
            return 1


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop where it exists; grpc.aio streams are a fifth faster on it."""
    if sys.platform == "win32":
        return None
    import uvloop  # noqa: PLC0415 - not built for Windows

    return uvloop.new_event_loop
