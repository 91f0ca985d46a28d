"""The one place that knows every port and every variable of the local stack.

A variable that the caller has set stands. An engine is left out when the caller's variables already name another
server for everything that uses it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from deploy.local.errors import StackError
from deploy.local.home import Home
from deploy.local.postgres import Postgres
from deploy.local.valkey import Valkey

PORT_BASE = 7400
HIGHEST_PORT = 65_535


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    offset: int
    """From SCRISTILL_PORT_BASE."""
    variable: str
    """Sets this port alone."""


PORTS = {
    "scheduler": Port(offset=1, variable="SCHEDULER_PORT"),
    "extractor": Port(offset=2, variable="EXTRACTOR_PORT"),
    "indexer": Port(offset=3, variable="INDEXER_PORT"),
    "llm_gateway": Port(offset=4, variable="LLM_GATEWAY_PORT"),
    "traces": Port(offset=17, variable="SCRISTILL_TRACES_PORT"),
    "postgres": Port(offset=32, variable="SCRISTILL_POSTGRES_PORT"),
    "qdrant": Port(offset=34, variable="SCRISTILL_QDRANT_PORT"),
    "valkey": Port(offset=79, variable="SCRISTILL_VALKEY_PORT"),
    "scheduler_metrics": Port(offset=2001, variable="SCHEDULER_METRICS_PORT"),
    "extractor_metrics": Port(offset=2002, variable="EXTRACTOR_METRICS_PORT"),
    "indexer_metrics": Port(offset=2003, variable="INDEXER_METRICS_PORT"),
    "llm_gateway_metrics": Port(offset=2004, variable="LLM_GATEWAY_METRICS_PORT"),
}

SERVICES = ("scheduler", "extractor", "indexer", "llm_gateway")

ENGINE_VARIABLES = {
    "postgres": ("SCHEDULER_DATABASE_URL", "EXTRACTOR_DATABASE_URL"),
    "valkey": ("LLM_GATEWAY_REDIS_URL",),
    "qdrant": ("INDEXER_QDRANT_URL",),
    "traces": ("OTEL_EXPORTER_OTLP_ENDPOINT",),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What one stack looks like: its home, its ports, and the caller's environment."""

    home: Home
    ports: Mapping[str, int]
    password: str = field(repr=False)
    environ: Mapping[str, str] = field(repr=False)

    @property
    def postgres(self) -> Postgres:
        return Postgres(directory=self.home.postgres, port=self.ports["postgres"], password=self.password)

    @property
    def valkey(self) -> Valkey:
        return Valkey(directory=self.home.valkey, port=self.ports["valkey"], password=self.password)

    def address(self, name: str) -> str:
        return f"127.0.0.1:{self.ports[name]}"

    def variables(self) -> dict[str, str]:
        """What services and clients of this stack need, with what the caller has set."""
        return {name: self.environ.get(name) or value for name, value in self._defaults().items()}

    def engine_environment(self) -> dict[str, str]:
        return self._environment_of(None)

    def service_environment(self, service: str) -> dict[str, str]:
        return self._environment_of(service)

    def runs_engine(self, name: str) -> bool:
        """False when every user of the engine is pointed elsewhere."""
        defaults, actual = self._defaults(), self.variables()
        return any(actual[variable] == defaults[variable] for variable in ENGINE_VARIABLES[name])

    def _environment_of(self, service: str | None) -> dict[str, str]:
        """A process gets no settings of another service: the key of a model provider is the gateway's alone."""
        others = tuple(f"{name.upper()}_" for name in SERVICES if name != service)
        everything = {**self.environ, **self.variables(), "PYTHONUNBUFFERED": "1"}
        return {name: value for name, value in everything.items() if not name.startswith(others)}

    def _defaults(self) -> dict[str, str]:
        listening = {PORTS[name].variable: str(self.ports[name]) for name in PORTS if name.startswith(SERVICES)}
        postgres = self.postgres.url()
        return {
            **listening,
            **{f"{name.upper()}_LOG_FORMAT": "console" for name in SERVICES},
            "SCHEDULER_DATABASE_URL": postgres,
            "EXTRACTOR_DATABASE_URL": postgres,
            "EXTRACTOR_SCHEDULER_ADDRESS": self.address("scheduler"),
            "EXTRACTOR_LLM_GATEWAY_ADDRESS": self.address("llm_gateway"),
            "EXTRACTOR_INDEXER_ADDRESS": self.address("indexer"),
            "INDEXER_LLM_GATEWAY_ADDRESS": self.address("llm_gateway"),
            "INDEXER_QDRANT_URL": f"http://{self.address('qdrant')}",
            "LLM_GATEWAY_REDIS_URL": self.valkey.url(),
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{self.address('traces')}",
            # For clients, the command line among them.
            **{f"SCRISTILL_{name.upper()}_ADDRESS": self.address(name) for name in SERVICES},
        }


def layout(home: Home, environ: Mapping[str, str]) -> Layout:
    """Of a home that exists; makes the password on first use."""
    return Layout(home=home, ports=ports(environ), password=home.password(), environ=environ)


def ports(environ: Mapping[str, str]) -> dict[str, int]:
    base = _port(environ, "SCRISTILL_PORT_BASE", PORT_BASE)
    chosen = {name: _port(environ, port.variable, base + port.offset) for name, port in PORTS.items()}
    by_number: dict[int, str] = {}
    for name, number in chosen.items():
        if number in by_number:
            raise StackError(f"{name} and {by_number[number]} have the same port {number}: see {PORTS[name].variable}")
        by_number[number] = name
    return chosen


def _port(environ: Mapping[str, str], variable: str, default: int) -> int:
    text = environ.get(variable) or str(default)
    if not text.isdecimal() or not 0 < int(text) <= HIGHEST_PORT:
        raise StackError(f"{variable} is {text!r}, which is not a port")
    return int(text)
