"""`python -m deploy.configuration`: writes the tables of docs/configuration.md anew from the services' settings."""

import importlib
import re
from pathlib import Path
from typing import cast

from services.shared.settings import ServiceSettings, render_table

PAGE = Path(__file__).parents[1] / "docs/configuration.md"
SETTINGS = {
    "scheduler": "SchedulerSettings",
    "extractor": "ExtractorSettings",
    "indexer": "IndexerSettings",
    "llm_gateway": "LlmGatewaySettings",
}


def render(page: str) -> str:
    """The page with every table between its markers replaced by the present one."""
    return re.sub(r"(<!-- settings:(\w+) -->\n).*?(\n<!-- end -->)", _table, page, flags=re.DOTALL)


def _table(section: re.Match[str]) -> str:
    module = importlib.import_module(f"services.{section[2]}.settings")
    settings = cast("type[ServiceSettings]", getattr(module, SETTINGS[section[2]]))
    return f"{section[1]}{render_table(settings)}{section[3]}"


if __name__ == "__main__":
    PAGE.write_text(render(PAGE.read_text()))
