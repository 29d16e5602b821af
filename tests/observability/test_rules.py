"""The rules are valid, each alert fires when it should and not before, and has a runbook."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from handlers.metrics import Metrics as WebMetrics
from nodeagent.metrics import Metrics as AgentMetrics
from tests.observability.files import FOLDER, ROOT, RULES, alerts, queries
from tests.observability.promql import groupings
from tests.real.programs import need

CASES: Final = tomllib.loads((Path(__file__).parent / "cases.toml").read_text())
OPERATIONS: Final = (ROOT / "docs" / "operations.md").read_text()
RUNBOOKS: Final = OPERATIONS.partition("\n## Alerts\n")[2].partition("\n## ")[0]


def promtool(*arguments: str) -> str:
    """What promtool prints; it must succeed."""
    need("promtool", "promtool")
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_promtool_accepts_the_rules() -> None:
    assert "SUCCESS" in promtool("check", "rules", str(RULES))


@pytest.mark.slow
def test_promtool_can_parse_every_query(tmp_path: Path) -> None:
    recorded = [{"record": f"q:{number}", "expr": query} for number, query in enumerate(queries().values())]
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": recorded}]}))
    assert f"{len(recorded)} rules found" in promtool("check", "rules", str(path))


def test_every_alert_has_a_case() -> None:
    assert CASES.keys() == alerts().keys()


def firing(alert: str, minute: int, namespaces: list[str]) -> dict[str, Any]:
    expr = f'count by (namespace) (ALERTS{{alertname="{alert}", alertstate="firing"}}) > bool 0'
    samples = [{"labels": f'{{namespace="{name}"}}', "value": 1} for name in namespaces]
    return {"expr": expr, "eval_time": f"{minute}m", "exp_samples": samples}


def series(case: dict[str, Any], namespace: str) -> list[dict[str, str]]:
    found = []
    for name, values in case[namespace].items():
        metric, _, labels = name.rstrip("}").partition("{")
        named = ",".join(filter(None, [labels, f'namespace="{namespace}"']))
        found.append({"series": f"{metric}{{{named}}}", "values": values})
    return found


@pytest.mark.slow
def test_each_alert_fires_in_its_minute_and_not_before_and_not_where_all_is_well(tmp_path: Path) -> None:
    tests = [
        {
            "interval": "1m",
            "input_series": series(case, "bad") + series(case, "good"),
            "promql_expr_test": [firing(alert, case["fires"] - 1, []), firing(alert, case["fires"], ["bad"])],
        }
        for alert, case in CASES.items()
    ]
    path = tmp_path / "tests.yaml"
    path.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": tests}))
    promtool("test", "rules", str(path))


@pytest.mark.slow
def test_an_alert_about_nodes_names_the_first_of_them(tmp_path: Path) -> None:
    down = {'warmhook_runtime_up{node="node-1",namespace="a"}': "0x20"}
    expected = {
        "exp_labels": {"severity": "warning", "namespace": "a"},
        "exp_annotations": {
            "summary": "Nodes whose container runtime does not answer: 1",
            "description": "Nothing is pulled there. The first of them: node-1 ",
            "runbook_url": alerts()["WarmhookRuntimeDown"]["annotations"]["runbook_url"],
        },
    }
    test = {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in down.items()],
        "alert_rule_test": [{"eval_time": "12m", "alertname": "WarmhookRuntimeDown", "exp_alerts": [expected]}],
    }
    path = tmp_path / "tests.yaml"
    path.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "tests": [test]}))
    promtool("test", "rules", str(path))


@pytest.mark.slow
def test_a_source_with_few_pushes_begins_an_alert_too_unless_they_are_accepted_when_repeated(tmp_path: Path) -> None:
    failed, accepted = "0x11 1x11 2x11 3x11", "0x13 1x11 2x11 3x9"
    input_series = [
        {"series": f'warmhook_deliveries_total{{source="{source}",result="{result}",namespace="a"}}', "values": values}
        for source, result, values in (
            ("lost", "unavailable", failed),
            ("repeated", "unavailable", failed),
            ("repeated", "accepted", accepted),
        )
    ]
    expr = 'count by (source) (ALERTS{alertname="WarmhookDeliveriesUnavailable", alertstate="firing"}) > bool 0'
    test = {
        "interval": "1m",
        "input_series": input_series,
        "promql_expr_test": [
            {"expr": expr, "eval_time": f"{minute}m", "exp_samples": [{"labels": '{source="lost"}', "value": 1}]}
            for minute in (30, 45)
        ],
    }
    path = tmp_path / "tests.yaml"
    path.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": [test]}))
    promtool("test", "rules", str(path))


@pytest.mark.parametrize("name", alerts())
def test_an_alert_waits_and_says_how_bad_what_and_where_to_read_on(name: str) -> None:
    rule = alerts()[name]
    assert rule["for"]
    assert rule["labels"].keys() == {"severity"}
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
    assert {"cluster", "namespace"} <= groupings(rule["expr"])


def test_every_alert_has_a_runbook_and_every_runbook_an_alert() -> None:
    assert re.findall(r"^### (\w+)$", RUNBOOKS, flags=re.MULTILINE) == list(alerts())
    site = yaml.safe_load(re.sub(r"!\S+", "", (ROOT / "mkdocs.yml").read_text()))["site_url"]
    for name, rule in alerts().items():
        assert rule["annotations"]["runbook_url"] == f"{site}operations.html#{name.lower()}"


def test_a_runbook_says_how_long_and_how_bad_as_its_alert_does() -> None:
    sections = dict(re.findall(r"^### (\w+)\n\n(.*?)(?=\n### |\Z)", RUNBOOKS, flags=re.MULTILINE | re.DOTALL))
    for name, rule in alerts().items():
        assert sections[name].startswith(f"`{rule['labels']['severity']}`, after {rule['for']}. "), name


def test_the_object_of_the_operator_has_the_same_rules() -> None:
    made = yaml.safe_load((FOLDER / "prometheusrule.yaml").read_text())
    assert made["kind"] == "PrometheusRule"
    assert made["spec"] == yaml.safe_load(RULES.read_text()), "run `make rules`"


@pytest.mark.slow
def test_promtool_accepts_the_scrape_configuration_of_the_docs(tmp_path: Path) -> None:
    (configuration,) = re.findall(r"```yaml\n(scrape_configs:\n.*?)```", OPERATIONS, flags=re.DOTALL)
    path = tmp_path / "prometheus.yaml"
    # The promtool of some distributions knows no Kubernetes.
    discovery = re.compile(r"kubernetes_sd_configs: .*")
    assert len(discovery.findall(configuration)) == 1
    path.write_text(discovery.sub("static_configs: []", configuration))
    assert "SUCCESS" in promtool("check", "config", str(path))


@pytest.mark.slow
@pytest.mark.parametrize("metrics", [WebMetrics(), AgentMetrics()], ids=["web", "agent"])
def test_promtool_finds_no_fault_in_the_names_and_types_of_metrics(metrics: WebMetrics | AgentMetrics) -> None:
    need("promtool", "promtool")
    command = ("promtool", "check", "metrics")
    done = subprocess.run(command, input=metrics.exposition(), capture_output=True, check=False, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
