# SPDX-License-Identifier: Apache-2.0
"""The rules of Prometheus as they stand in the tree, and what docs/operations.md says of them."""

import re
from pathlib import Path
from typing import Any, NamedTuple

import yaml

ROOT = Path(__file__).parents[3]
RULES = ROOT / "dashboards" / "rules"
FILES = sorted(RULES.glob("*.yaml"), reverse=True)  # recording.yaml first
PAGE_TEXT = (ROOT / "docs" / "operations.md").read_text()
GRAFANA = "http://localhost:3000"
RUNBOOK = "https://github.com/podtally/podtally/blob/main/docs/operations.md"
SECTIONS = dict(
    re.findall(r"^### (Podtally\w+)\n(.*?)(?=^##|\Z)", PAGE_TEXT, re.MULTILINE | re.DOTALL)
)


class Rule(NamedTuple):
    record: str
    alert: str
    expr: str
    holds: str  # how long, before it fires
    labels: dict[str, str]
    annotations: dict[str, str]

    @property
    def name(self) -> str:
        return self.alert or self.record


def groups(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = yaml.safe_load(path.read_text())["groups"]
    return found


def rules() -> list[Rule]:
    return [
        Rule(
            each.get("record", ""),
            each.get("alert", ""),
            each["expr"],
            each.get("for", ""),
            each.get("labels", {}),
            each.get("annotations", {}),
        )
        for path in FILES
        for group in groups(path)
        for each in group["rules"]
    ]


class Configurations(NamedTuple):
    """What the page proposes."""

    prometheus: dict[str, Any]
    alertmanager: dict[str, Any]  # without receivers


def configurations() -> Configurations:
    found = re.findall(r"```yaml\n(.*?)```", PAGE_TEXT, re.DOTALL)
    return Configurations(*map(yaml.safe_load, found))
