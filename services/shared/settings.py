"""Settings from the environment: one frozen class per service, checked once at start.

A service subclasses `ServiceSettings` and sets its prefix; every field has a
description, because `docs/configuration.md` is rendered from them. A variable that is
missing or malformed ends the process with status 2 and one line that names it.
Durations are seconds and say so in their names. Secrets never render.
"""

import difflib
import os
import re
import sys
from collections.abc import Iterable, Iterator
from enum import StrEnum
from typing import Annotated, Any, TypeVar, get_args

from pydantic import BeforeValidator, Field, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticUndefined
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict, SettingsError

USAGE_ERROR = 2

_URL_PASSWORD = re.compile(r"(?<=://)([^:/@\s]*):\S*@")


class LogFormat(StrEnum):
    JSON = "json"
    CONSOLE = "console"


class LogLevel(StrEnum):
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class SecretUrl(SecretStr):
    """A URL that may hold a password: renders whole except for the password."""

    def _display(self) -> str:
        return _URL_PASSWORD.sub(r"\1:***@", self.get_secret_value())


def _split(value: object) -> object:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


# Comma-separated in the environment: `A, B` is ("A", "B").
CommaList = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]


class ServiceSettings(BaseSettings):
    """What every service has. Subclasses override the two ports and add their own fields."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True)

    host: str = Field(default="127.0.0.1", description="Address that the gRPC server binds.")
    port: int = Field(default=0, ge=0, le=65535, description="Port of the gRPC server; 0 takes a free one.")
    metrics_port: int = Field(
        default=0, ge=-1, le=65535, description="Port of /metrics and /healthz; 0 takes a free one, -1 serves none."
    )
    log_level: Annotated[LogLevel, BeforeValidator(_lower)] = Field(
        default=LogLevel.INFO, description="Least severe level that is logged: debug, info, warning or error."
    )
    log_format: Annotated[LogFormat, BeforeValidator(_lower)] = Field(
        default=LogFormat.JSON, description="`json` for machines, `console` for people."
    )
    workers: int = Field(
        default=1, ge=1, le=64, description="Processes that share the port. More than one needs a metrics directory."
    )
    drain_delay_seconds: float = Field(
        default=0.0, ge=0, description="Wait between NOT_SERVING and the drain, for load balancers to notice."
    )
    drain_seconds: float = Field(
        default=20.0, ge=0, description="How long running calls may take to finish after SIGTERM."
    )
    hard_stop_seconds: float = Field(
        default=5.0,
        ge=0,
        description="How long background loops may take to stop after that, before they are cancelled.",
    )
    reflection: bool = Field(default=True, description="Serve gRPC reflection, for grpcurl without protos.")
    max_concurrent_rpcs: int = Field(
        default=2000, ge=1, description="Calls in flight per process; more are refused with RESOURCE_EXHAUSTED."
    )
    max_connection_age_seconds: float = Field(
        default=1800.0,
        ge=0,
        description="Age at which a connection is asked to reconnect, so that new replicas get load; 0 never.",
    )
    default_deadline_seconds: float = Field(
        default=30.0, gt=0, description="Deadline of a unary call whose client set none."
    )


SettingsT = TypeVar("SettingsT", bound=ServiceSettings)


def load(settings: type[SettingsT]) -> SettingsT:
    """Reads the environment. Ends the process with status 2 and one line when a variable is bad or missing."""
    try:
        return settings()
    except ValidationError as error:
        problem = "; ".join(_describe(settings, details) for details in error.errors(include_url=False))
    except SettingsError as error:
        problem = f"{_prefix(settings)}*: {error}"
    sys.stderr.write(f"{problem}\n")
    raise SystemExit(USAGE_ERROR)


def _describe(settings: type[ServiceSettings], details: ErrorDetails) -> str:
    name = str(details["loc"][0]) if details["loc"] else ""
    variable = f"{_prefix(settings)}{name.upper()}" if name else f"{_prefix(settings)}*"
    if details["type"] == "missing":
        return f"{variable}: required, not set"
    message = details["msg"][:1].lower() + details["msg"][1:]
    field = settings.model_fields.get(name)
    if field is None or _is_secret(field):
        return f"{variable}: {message}"
    given = str(details["input"])
    hint = " (set enableServiceLinks: false in the pod)" if given.startswith("tcp://") else ""
    return f'{variable}: {message}, got "{given}"{hint}'


def render(settings: ServiceSettings) -> str:
    """One `NAME=value` per line, sorted as declared, secrets as `***`."""
    prefix = _prefix(type(settings))
    return "\n".join(
        f"{prefix}{name.upper()}={_render_value(getattr(settings, name))}" for name in type(settings).model_fields
    )


def unknown_variables(settings: type[ServiceSettings], environ: Iterable[str] = os.environ) -> Iterator[str]:
    """One line per variable that has the prefix and nearly the name of a setting."""
    prefix = _prefix(settings)
    known = {name.upper() for name in settings.model_fields}
    for name in sorted(name.removeprefix(prefix) for name in environ if name.startswith(prefix)):
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
        if name not in known and near:
            yield f"{prefix}{name}: not a setting; {prefix}{near[0]} is"


def render_table(settings: type[ServiceSettings]) -> str:
    """The Markdown table of one service for `docs/configuration.md`."""
    rows = ["| variable | default | meaning |", "|---|---|---|"]
    prefix = _prefix(settings)
    for name, field in settings.model_fields.items():
        if not field.description:
            msg = f"{settings.__name__}.{name} has no description"
            raise ValueError(msg)
        rows.append(f"| `{prefix}{name.upper()}` | {_render_default(field)} | {field.description} |")
    return "\n".join(rows)


def _prefix(settings: type[ServiceSettings]) -> str:
    return settings.model_config.get("env_prefix") or ""


def _is_secret(field: FieldInfo) -> bool:
    candidates = (field.annotation, *get_args(field.annotation))
    return any(isinstance(item, type) and issubclass(item, SecretStr) for item in candidates)


def _render_value(value: Any) -> str:
    if isinstance(value, SecretUrl):
        return str(value)
    if isinstance(value, SecretStr):
        return "***" if value.get_secret_value() else ""
    if isinstance(value, tuple):
        return ",".join(str(item) for item in value)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else str(value)


def _render_default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined and field.default_factory is None:
        return "*required*"
    text = _render_value(field.get_default(call_default_factory=True, validated_data={}))
    return f"`{text}`" if text else "–"
