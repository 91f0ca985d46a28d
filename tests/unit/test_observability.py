"""Alerts, the metrics that they are about, and the runbook that they lead to belong together."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
RULES = [
    rule
    for group in yaml.safe_load((ROOT / "deploy/observability/alerts.yaml").read_text())["groups"]
    for rule in group["rules"]
]
RUNBOOK = ROOT / "docs/runbooks/alerts.md"


def known_metrics() -> set[str]:
    return set(re.findall(r"^\| `(scristill_\w+)` \|", (ROOT / "docs/telemetry.md").read_text(), re.MULTILINE))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_alert_is_about_metrics_that_exist(rule: dict[str, str]) -> None:
    used = set(re.findall(r"scristill_\w+", rule["expr"]))

    assert used <= known_metrics()
    assert used or "up{" in rule["expr"]


def test_each_alert_has_its_section_in_the_runbook_and_no_section_is_left_over() -> None:
    sections = re.findall(r"^## (\w+)$", RUNBOOK.read_text(), re.MULTILINE)

    assert sections == [rule["alert"] for rule in RULES]
    for rule in RULES:
        assert rule["annotations"]["runbook"] == f"{RUNBOOK.relative_to(ROOT)}#{rule['alert'].lower()}"
