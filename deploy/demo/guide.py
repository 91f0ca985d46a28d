"""The last page of the demo: where everything listens, and what to type next."""

import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

from rich.console import RenderableType
from rich.text import Text
from scristill.extractor.v1.project_pb2 import Project

from deploy.local.process import Kind
from deploy.local.state import StackStatus
from services.cli.render.tables import table

SERVICE = "scristill.indexer.v1.SearchService/Search"


def addresses(current: StackStatus) -> Iterator[RenderableType]:
    made = table("PROCESS", "ADDRESS", "METRICS")
    for process in current.processes:
        if process.kind is not Kind.STEP:
            metrics = current.ports.get(f"{process.name}_metrics")
            made.add_row(process.name, process.address, f"http://127.0.0.1:{metrics}/metrics" if metrics else "")
    yield made


def next_steps(project: Project, current: StackStatus) -> Iterator[RenderableType]:
    scristill, grpcurl = program("scristill"), program("grpcurl")
    search = f"127.0.0.1:{current.ports['indexer']}"
    request = f'{{"project_id": "{project.project_id}", "query": "bridge", "page_size": 3}}'
    yield from steps(
        "Ask, add documents of yours, look around:",
        f'{scristill} search "Who restored the catalogue?" --project {project.display_name}',
        f"{scristill} ingest PATH... --project {project.display_name} --follow",
        f"{scristill} facts list --project {project.display_name}",
        f"{scristill} status",
        f"{scristill} trace --last",
    )
    yield from steps(
        "Any language with gRPC will do; every service has reflection:",
        f"{grpcurl} -plaintext {search} list",
        f"{grpcurl} -plaintext -d '{request}' {search} {SERVICE}",
    )
    yield from steps(
        "A model of yours instead of the embedded one: any OpenAI-compatible endpoint (OpenAI, vLLM, Ollama):",
        "make down",
        f"LLM_GATEWAY_OPENAI_BASE_URL=http://127.0.0.1:11434/v1 LLM_GATEWAY_OPENAI_MODEL=llama3.2 {scristill} up",
        f"{scristill} project create mine && {scristill} ingest PATH... --project mine --follow",
    )
    yield from steps(f"Stop everything (the data stays in {current.home}):", "make down")


def steps(title: str, *commands: str) -> Iterator[RenderableType]:
    yield title
    for command in commands:
        yield Text(f"  {command}", "cyan")
    yield ""


def program(name: str) -> str:
    """As it can be typed here: beside the interpreter when it is not on the PATH."""
    beside = Path(sys.executable).with_name(name)
    return shlex.quote(os.path.relpath(beside)) if beside.exists() else name
