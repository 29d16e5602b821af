"""Read the rules and the dashboards."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml

ROOT: Final = Path(__file__).parents[2]
FOLDER: Final = ROOT / "knative" / "components" / "monitoring"
RULES: Final = FOLDER / "rules.yaml"
DASHBOARDS: Final = {path.name: json.loads(path.read_text()) for path in (FOLDER / "dashboards").glob("*.json")}


@functools.cache
def rules() -> list[dict[str, Any]]:
    """All rules, of all groups."""
    groups = yaml.load(RULES.read_text(), yaml.CSafeLoader)["groups"]
    return [rule for group in groups for rule in group["rules"]]


def alerts() -> dict[str, dict[str, Any]]:
    """The alerts by name."""
    return {rule["alert"]: rule for rule in rules() if "alert" in rule}


def panels(dashboard: dict[str, Any]) -> list[dict[str, Any]]:
    """The panels that show something."""
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def panel_queries() -> dict[str, str]:
    """The query of each target as Prometheus gets it, by dashboard, panel and target."""
    return {
        f"{name}: {panel['title']}: {target['refId']}": with_variables(target["expr"])
        for name, dashboard in DASHBOARDS.items()
        for panel in panels(dashboard)
        for target in panel["targets"]
    }


def with_variables(query: str) -> str:
    """A query as Grafana sends it if all variables are "All"."""
    query = re.sub(r"\$(cluster|namespace|instance)\b", ".*", query)
    query = re.sub(r"\$__(rate_interval|range)\b", "5m", query)
    assert "$" not in query, query
    return query


def queries() -> dict[str, str]:
    """All queries of panels, rules, and the descriptions of alerts."""
    found = panel_queries()
    for rule in rules():
        name = rule.get("alert") or rule["record"]
        found[name] = rule["expr"]
        for number, query in enumerate(_in_templates(rule.get("annotations", {}))):
            found[f"{name}: query {number}"] = query
    return found


def _in_templates(annotations: dict[str, str]) -> Iterator[str]:
    for text in annotations.values():
        for query in re.findall(r'query "([^"]+)"', text):
            yield query.replace("'", '"')
