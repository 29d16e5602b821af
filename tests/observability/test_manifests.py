"""The monitors scrape ports that the Pods have, under the jobs that rules and dashboards name."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.manifests.rendered import BASE, KNATIVE, containers, find, pod_templates, render
from tests.observability.files import DASHBOARDS, FOLDER, ROOT

OPERATIONS = ROOT / "docs" / "operations.md"


def monitors() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((FOLDER / "podmonitors.yaml").read_text()))


def selected(monitor: dict[str, Any], labels: dict[str, str]) -> bool:
    selector = monitor["spec"]["selector"]
    equal = all(labels.get(name) == value for name, value in selector.get("matchLabels", {}).items())
    return equal and all(
        each["operator"] == "In" and labels.get(each["key"]) in each["values"]
        for each in selector.get("matchExpressions", ())
    )


def test_every_pod_with_metrics_is_scraped_at_a_port_that_it_has() -> None:
    scraped = set()
    for objects in (render(BASE), render(KNATIVE)):
        for obj, template in pod_templates(objects):
            labels = template["metadata"].get("labels", {})
            for monitor in monitors():
                if monitor["metadata"]["namespace"] != obj["metadata"]["namespace"] or not selected(monitor, labels):
                    continue
                if obj["apiVersion"] != "apps/v1":
                    continue
                (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
                assert endpoint["port"] in [port["name"] for each in containers(obj) for port in each["ports"]]
                assert monitor["spec"]["jobLabel"] == "app.kubernetes.io/name"
                scraped.add(labels["app.kubernetes.io/name"])
    assert scraped == {"warmhook-web", "warmhook-handlers", "warmhook-agent", "warmhook-admission"}


def test_the_scrape_configuration_of_the_docs_reads_the_pods_that_have_metrics_and_no_others() -> None:
    page = yaml.safe_load_all((BASE.parent / "components" / "ui" / "page.yaml").read_text())
    (text,) = re.findall(r"```yaml\n(scrape_configs:\n.*?)```", OPERATIONS.read_text(), flags=re.DOTALL)
    (job,) = yaml.safe_load(text)["scrape_configs"]
    kept = set()
    for obj, template in pod_templates([*render(BASE), *page]):
        labels = template["metadata"]["labels"]
        for port in (port for each in containers(obj) for port in each.get("ports", ())):
            about = {"__meta_kubernetes_pod_container_port_name": port["name"]} | {
                "__meta_kubernetes_pod_label_" + re.sub(r"\W", "_", name): value for name, value in labels.items()
            }
            checks = [rule for rule in job["relabel_configs"] if "action" in rule]
            if all(
                bool(re.fullmatch(rule["regex"], about[rule["source_labels"][0]])) == (rule["action"] == "keep")
                for rule in checks
            ):
                kept.add((labels["app.kubernetes.io/name"], port["name"]))
    assert kept == {("warmhook-web", "http"), ("warmhook-handlers", "http"), ("warmhook-agent", "metrics")}


def test_no_pod_that_scales_to_zero_is_scraped_since_it_would_look_like_one_that_is_down() -> None:
    scaling = [obj for obj in render(KNATIVE) if obj["apiVersion"].startswith("serving.knative.dev/")]
    assert scaling
    names = {port.get("name") for obj in scaling for each in containers(obj) for port in each["ports"]}
    assert not names & {each["port"] for monitor in monitors() for each in monitor["spec"]["podMetricsEndpoints"]}


def test_alerts_about_agents_can_name_the_node() -> None:
    (agents,) = [each for each in monitors() if each["metadata"]["name"] == "warmhook-agent"]
    (rule,) = agents["spec"]["podMetricsEndpoints"][0]["relabelings"]
    assert rule == {"sourceLabels": ["__meta_kubernetes_pod_node_name"], "targetLabel": "node"}


@pytest.mark.e2e
def test_kubectl_adds_the_component_to_an_installation(tmp_path: Path) -> None:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("no kubectl on PATH")
    for name in ("base", "components"):
        shutil.copytree(BASE.parent / name, tmp_path / name)
    site = tmp_path / "site"
    site.mkdir()
    (site / "kustomization.yaml").write_text("resources: [../base]\ncomponents: [../components/monitoring]\n")
    done = subprocess.run([kubectl, "kustomize", str(site)], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    objects = list(yaml.safe_load_all(done.stdout))
    dashboards = find(objects, "ConfigMap", "warmhook-dashboards")
    assert dashboards["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert {name: json.loads(text) for name, text in dashboards["data"].items()} == DASHBOARDS
    assert find(objects, "PrometheusRule", "warmhook")["spec"]["groups"]
    assert find(objects, "PodMonitor", "warmhook-agent")
