"""Helm installs, upgrades, adopts and uninstalls Warmhook on an API server."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.chart.helm import CHART, helm
from tests.manifests.rendered import BASE, render
from tests.support.apiserver import apiserver
from warmhook.ports import Object

pytestmark = pytest.mark.e2e

SYSTEM: Final = "warmhook-system"
IMAGE: Final[Object] = {"image": {"repository": "registry.example.com/tools/warmhook", "tag": "1.0"}}
SENDER: Final[Object] = {
    "name": "harbor",
    "kind": "harbor",
    "secret": [{"file": "/etc/warmhook/secrets/harbor"}, {"file": "/etc/warmhook/secrets/harbor-next"}],
}


class Cluster:
    """An empty cluster, with kubectl and Helm."""

    def __init__(self, folder: Path) -> None:
        self.environment = {"KUBECONFIG": str(folder / "kubeconfig"), "HOME": str(folder)}

    def kubectl(self, *arguments: str, stdin: str = "") -> str:
        done = subprocess.run(
            ["kubectl", *arguments],
            input=stdin,
            env={"PATH": "/usr/local/bin:/usr/bin:/bin", **self.environment},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def get(self, *arguments: str) -> Any:
        return json.loads(self.kubectl("get", *arguments, "--ignore-not-found", "-o", "json") or "{}")

    def helm(self, *arguments: str, values: Object | None = None) -> str:
        """Run Helm; what it prints."""
        given = ["--values", "-"] if values is not None else []
        done = helm(*arguments, *given, stdin=yaml.safe_dump(values or {}), environ=self.environment)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def install(self, *flags: str, values: Object = IMAGE, verb: str = "install") -> str:
        return self.helm(verb, "warmhook", str(CHART), "--namespace", SYSTEM, *flags, values=values)

    def make_namespace(self) -> None:
        self.kubectl("create", "namespace", SYSTEM)
        self.kubectl("label", "namespace", SYSTEM, "pod-security.kubernetes.io/enforce=restricted")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    if shutil.which("kubectl") is None:
        pytest.skip("no kubectl on PATH")
    with apiserver(tmp_path):
        yield Cluster(tmp_path)


def webhook_of(cluster: Cluster) -> Any:
    return cluster.get("mutatingwebhookconfiguration", "warmhook")["webhooks"][0]


def test_an_upgrade_changes_what_the_values_say_and_keeps_what_warmhook_wrote(cluster: Cluster) -> None:
    cluster.make_namespace()
    cluster.install()
    # As `watch` does.
    written = {"caBundle": "QQ==", "service": {"name": "warmhook-admission", "namespace": SYSTEM, "port": 443}}
    written["service"] |= {"path": f"/admission/pods/{'a' * 26}"}  # type: ignore[operator] # it is a mapping
    patch = [{"op": "replace", "path": "/webhooks/0/clientConfig", "value": written}]
    cluster.kubectl("patch", "mutatingwebhookconfiguration", "warmhook", "--type=json", "-p", json.dumps(patch))
    cluster.kubectl("-n", SYSTEM, "patch", "secret", "warmhook-tls", "-p", '{"data": {"tls.crt": "QQ=="}}')
    cluster.kubectl("-n", SYSTEM, "patch", "configmap", "warmhook-deliveries", "-p", '{"data": {"web-1": "x"}}')

    cluster.install(
        verb="upgrade",
        values=IMAGE | {"web": {"replicas": 4}, "admission": {"excludedNamespaces": ["kube-system", "gatekeeper"]}},
    )

    assert cluster.get("-n", SYSTEM, "deployment", "warmhook-web")["spec"]["replicas"] == 4
    webhook = webhook_of(cluster)
    assert "gatekeeper" in webhook["namespaceSelector"]["matchExpressions"][0]["values"]
    assert webhook["clientConfig"] == written
    assert cluster.get("-n", SYSTEM, "secret", "warmhook-tls")["data"] == {"tls.crt": "QQ=="}
    assert cluster.get("-n", SYSTEM, "configmap", "warmhook-deliveries")["data"] == {"web-1": "x"}


def test_an_upgrade_upgrades_the_crds(cluster: Cluster, tmp_path: Path) -> None:
    cluster.make_namespace()
    shutil.copytree(CHART, old := tmp_path / "old")
    path = old / "manifests" / "base" / "crds" / "warmimages.yaml"
    text = path.read_text()
    assert "shortNames:\n    - wi\n" in text
    path.write_text(text.replace("    - wi\n", "    - old\n"))
    cluster.helm("install", "warmhook", str(old), "--namespace", SYSTEM, values=IMAGE)
    assert cluster.get("crd", "warmimages.warmhook.dev")["spec"]["names"]["shortNames"] == ["old"]
    cluster.install(verb="upgrade")
    assert cluster.get("crd", "warmimages.warmhook.dev")["spec"]["names"]["shortNames"] == ["wi"]


def test_the_chart_of_before_goes_back_and_forth_with_the_newer_crds_in_place(cluster: Cluster, tmp_path: Path) -> None:
    cluster.make_namespace()
    shutil.copytree(CHART, old := tmp_path / "old")
    path = old / "manifests" / "base" / "crds" / "warmimages.yaml"
    path.write_text(path.read_text().replace("    - wi\n", "    - old\n"))
    cluster.install()
    cluster.helm(
        *("upgrade", "warmhook", str(old), "--namespace", SYSTEM, "--set", "crds.install=false"),
        values=IMAGE | {"web": {"replicas": 4}},
    )
    assert cluster.get("-n", SYSTEM, "deployment", "warmhook-web")["spec"]["replicas"] == 4
    assert cluster.get("crd", "warmimages.warmhook.dev")["spec"]["names"]["shortNames"] == ["wi"]
    cluster.install(verb="upgrade")
    assert cluster.get("-n", SYSTEM, "deployment", "warmhook-web")["spec"]["replicas"] == 2


def test_uninstalling_keeps_what_users_and_operators_made_and_another_installation_takes_it_over(
    cluster: Cluster,
) -> None:
    cluster.make_namespace()
    cluster.kubectl("-n", SYSTEM, "create", "secret", "generic", "warmhook-senders", "--from-literal=harbor=x")
    cluster.install()
    image: Object = {"apiVersion": "warmhook.dev/v1alpha1", "kind": "WarmImage", "metadata": {"name": "mine"}}
    image["spec"] = {"image": "harbor.example.com/shop/web:v1"}
    cluster.kubectl("create", "-f", "-", stdin=yaml.safe_dump(image))

    said = cluster.helm("uninstall", "warmhook", "--namespace", SYSTEM)

    assert "[CustomResourceDefinition] warmimages.warmhook.dev" in said
    assert cluster.get("warmimage", "mine")["spec"]["image"] == image["spec"]["image"]
    assert cluster.get("-n", SYSTEM, "secret", "warmhook-senders")["data"]
    assert cluster.get("namespace", "warmhook-agents")["metadata"]["name"] == "warmhook-agents"
    for kind in ("deployments", "daemonsets", "services", "networkpolicies", "configmaps", "roles", "rolebindings"):
        assert cluster.get("-A", kind).get("items", []) == [], kind
    for kind in ("clusterroles", "clusterrolebindings", "mutatingwebhookconfigurations", "validatingadmissionpolicies"):
        assert cluster.get(kind).get("items", []) == [], kind

    cluster.install()
    assert cluster.get("warmimage", "mine")["spec"]["image"] == image["spec"]["image"]


def test_an_installation_by_kustomize_becomes_one_of_helm_and_back(cluster: Cluster) -> None:
    manifests = yaml.safe_dump_all(sorted(render(BASE), key=lambda obj: obj["kind"] != "Namespace"))
    cluster.kubectl("apply", "--server-side", "-f", "-", stdin=manifests)
    before = {name: uid_of(cluster, name) for name in ("daemonset/warmhook-agent", "deployment/warmhook-web")}

    cluster.install("--take-ownership", values=IMAGE | {"web": {"replicas": 3}})
    assert {name: uid_of(cluster, name) for name in before} == before
    web = cluster.get("-n", SYSTEM, "deployment", "warmhook-web")
    assert web["spec"]["replicas"] == 3
    assert web["spec"]["template"]["spec"]["containers"][0]["image"] == "registry.example.com/tools/warmhook:1.0"

    # The embedded API server cannot apply an object that exists.
    cluster.kubectl("apply", "-f", "-", stdin=manifests)
    cluster.kubectl("-n", SYSTEM, "delete", "secret", "--selector", "owner=helm,name=warmhook")
    assert cluster.helm("list", "--all-namespaces", "--short") == ""
    assert {name: uid_of(cluster, name) for name in before} == before
    assert cluster.get("-n", SYSTEM, "deployment", "warmhook-web")["spec"]["replicas"] == 2


def uid_of(cluster: Cluster, name: str) -> str:
    namespace = "warmhook-agents" if name.startswith("daemonset") else SYSTEM
    uid: str = cluster.get("-n", namespace, name)["metadata"]["uid"]
    return uid


def missing(said: str) -> list[str]:
    """What the notes of Helm say is missing."""
    if "What is still missing:" not in said:
        return []
    part = said.partition("What is still missing:\n")[2].partition("\n\n")[0]
    return [line for line in part.splitlines() if line]


def test_the_notes_of_an_empty_installation_say_what_to_do_first(cluster: Cluster) -> None:
    said = missing(cluster.install("--create-namespace", values={}))
    assert said == [
        "- image.repository is not set, so nodes ask Docker Hub for library/warmhook: build the image and name it.",
        "- No sender is configured (config.sources), so no webhook is accepted: see docs/senders.md.",
        "- The chart does not create the namespace warmhook-system, so label it yourself:",
        "    kubectl label --overwrite namespace warmhook-system pod-security.kubernetes.io/enforce=restricted",
    ]


def test_the_commands_of_the_notes_mend_what_is_missing(cluster: Cluster) -> None:
    registry = {"host": "h", "username": "u", "password": {"file": "/etc/warmhook/registries/password"}}
    registry |= {"caFile": "/etc/warmhook/registries/ca"}
    values = IMAGE | {"config": {"sources": [SENDER], "registries": [registry]}}
    said = missing(cluster.install("--create-namespace", values=values))
    assert [line for line in said if line.startswith("- ")] == [
        "- There is no Secret warmhook-senders: web does not start without it. Create it:",
        "- There is no Secret warmhook-registries: the handlers do not start without it. Create it:",
        "- The chart does not create the namespace warmhook-system, so label it yourself:",
    ]
    for line in said:
        if line.startswith("    kubectl "):
            cluster.kubectl(*line.replace("'", "").split()[1:])
    assert set(cluster.get("-n", SYSTEM, "secret", "warmhook-senders")["data"]) == {"harbor", "harbor-next"}
    assert missing(cluster.install(verb="upgrade", values=values)) == []


def test_the_notes_name_a_key_that_a_secret_lacks_and_no_value_of_it(cluster: Cluster) -> None:
    cluster.make_namespace()
    cluster.kubectl("-n", SYSTEM, "create", "secret", "generic", "warmhook-senders", "--from-literal=harbor=hunter2")
    said = cluster.install(values=IMAGE | {"config": {"sources": [SENDER]}})
    assert missing(said) == [
        "- The Secret warmhook-senders has no harbor-next: web does not start without it. Add what is missing:",
        """    kubectl -n warmhook-system patch secret warmhook-senders -p '{"stringData": {"harbor-next": "..."}}'""",
    ]
    assert "hunter2" not in said
    assert "aHVudGVyMg" not in said


def test_the_notes_name_a_variable_that_no_value_sets(cluster: Cluster) -> None:
    cluster.make_namespace()
    sources = [{"name": "ci", "kind": "ci", "secret": {"env": "CI_SECRET"}}]
    registries = [{"host": "h", "username": "u", "password": {"env": "REGISTRY_PASSWORD"}}]
    reference = {"secretKeyRef": {"name": "ci", "key": "secret"}}
    values: Object = IMAGE | {"config": {"sources": sources, "registries": registries}}
    values["handlers"] = {"env": {"REGISTRY_PASSWORD": reference}}
    assert missing(cluster.install(values=values)) == [
        "- A secret is in the variable CI_SECRET, which web.env does not set: its Pods do not start without it."
    ]
    values["web"] = {"env": {"CI_SECRET": reference}}
    assert missing(cluster.install(verb="upgrade", values=values)) == []


def test_the_notes_say_where_registries_post_to_and_how_to_open_the_page(cluster: Cluster) -> None:
    ingress = {"enabled": True, "host": "hooks.example.com", "tlsSecret": "hooks"}
    sources = [{"name": "harbor", "kind": "harbor", "insecure": True}]
    said = cluster.install("--create-namespace", values={"ingress": ingress, "config": {"sources": sources}})
    assert "  https://hooks.example.com/webhooks/harbor\n" in said
    assert "port-forward" not in said
    said = cluster.install(verb="upgrade", values={"ui": {"enabled": True}})
    assert "port-forward service/warmhook-ui 8080:80" in said
    service = cluster.get("-n", SYSTEM, "service", "warmhook-ui")
    assert [port["port"] for port in service["spec"]["ports"]] == [80]


def test_a_release_in_another_namespace_creates_both_of_warmhook(cluster: Cluster) -> None:
    cluster.helm("install", "warmhook", str(CHART), "--namespace", "releases", "--create-namespace", values=IMAGE)
    labels = {
        name: cluster.get("namespace", name)["metadata"]["labels"]["pod-security.kubernetes.io/enforce"]
        for name in (SYSTEM, "warmhook-agents")
    }
    assert labels == {SYSTEM: "restricted", "warmhook-agents": "privileged"}
    assert cluster.get("-n", SYSTEM, "deployment", "warmhook-web")["spec"]["replicas"] == 2
