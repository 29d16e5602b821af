"""kubectl works against the embedded API server. Needs a kubectl of 1.27 or newer on PATH."""

from __future__ import annotations

import json
import os
import re
import selectors
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from adapters.kubernetes.warmimage import warmimage_crd
from tests.support.apiserver import apiserver
from warmhook.ports import Object

pytestmark = pytest.mark.e2e

_OLDEST = 27


def _minor(kubectl: str) -> int:
    shown = subprocess.run([kubectl, "version", "--client", "-o", "json"], capture_output=True, check=False).stdout
    try:
        return int(re.match(r"\d+", json.loads(shown)["clientVersion"]["minor"])[0])  # type: ignore[index] # else TypeError
    except (ValueError, KeyError, TypeError):
        return 0


class Kubectl:
    """kubectl with the kubeconfig of an embedded server."""

    def __init__(self, program: str, folder: Path) -> None:
        self.program = program
        self.environment = {**os.environ, "KUBECONFIG": str(folder / "kubeconfig"), "HOME": str(folder)}

    def run(self, *arguments: str, stdin: Any = None) -> subprocess.CompletedProcess[str]:
        text = None if stdin is None else yaml.safe_dump(stdin)
        command = [self.program, *arguments]
        return subprocess.run(
            command, input=text, env=self.environment, capture_output=True, text=True, timeout=60, check=False
        )

    def __call__(self, *arguments: str, stdin: Any = None) -> str:
        done = self.run(*arguments, stdin=stdin)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def create(self, kind: str, name: str, **fields: Any) -> None:
        """Create an object of the core group from a file."""
        self("create", "-f", "-", stdin={"apiVersion": "v1", "kind": kind, "metadata": {"name": name}, **fields})


@pytest.fixture(scope="module")
def kubectl(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubectl]:
    program = shutil.which("kubectl")
    if program is None or _minor(program) < _OLDEST:
        pytest.skip(f"no kubectl of 1.{_OLDEST} or newer on PATH")
    folder = tmp_path_factory.mktemp("kubectl")
    with apiserver(folder):
        yield Kubectl(program, folder)


def test_create_get_and_delete(kubectl: Kubectl) -> None:
    kubectl.create("ConfigMap", "plain", data={"a": "b"})
    assert json.loads(kubectl("get", "configmap", "plain", "-o", "json"))["data"] == {"a": "b"}
    assert yaml.safe_load(kubectl("get", "cm/plain", "-o", "yaml"))["data"] == {"a": "b"}
    assert kubectl("get", "cm", "plain", "-o", "name") == "configmap/plain\n"
    kubectl("delete", "configmap", "plain")
    missing = kubectl.run("get", "configmap", "plain")
    assert missing.returncode == 1
    assert "(NotFound)" in missing.stderr


def test_apply_creates_configures_and_takes_away(kubectl: Kubectl) -> None:
    obj: Object = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "applied"}}
    obj["data"] = {"a": "1", "b": "2"}
    assert "created" in kubectl("apply", "-f", "-", stdin=obj)
    assert "unchanged" in kubectl("apply", "-f", "-", stdin=obj)
    obj["data"] = {"a": "3"}
    assert "configured" in kubectl("apply", "-f", "-", stdin=obj)
    assert json.loads(kubectl("get", "cm", "applied", "-o", "json"))["data"] == {"a": "3"}


def test_label_annotate_and_patch(kubectl: Kubectl) -> None:
    kubectl.create("ConfigMap", "marked")
    kubectl("label", "cm", "marked", "color=red")
    kubectl("annotate", "cm", "marked", "why=test")
    kubectl("patch", "cm", "marked", "-p", '{"data": {"a": "1"}}')
    kubectl("patch", "cm", "marked", "--type", "merge", "-p", '{"data": {"b": "2"}}')
    kubectl("patch", "cm", "marked", "--type", "json", "-p", '[{"op": "remove", "path": "/data/a"}]')
    obj = json.loads(kubectl("get", "cm", "marked", "-o", "json"))
    assert (obj["data"], obj["metadata"]["annotations"]) == ({"b": "2"}, {"why": "test"})
    assert kubectl("get", "cm", "-A", "-l", "color in (red)", "-o", "name") == "configmap/marked\n"
    chosen = kubectl("get", "cm", "--field-selector", "metadata.name=marked", "-o", "name")
    assert chosen == "configmap/marked\n"
    kubectl("label", "cm", "marked", "color-")
    assert kubectl("get", "cm", "-A", "-l", "color", "-o", "name") == ""


def test_nodes_and_namespaces(kubectl: Kubectl) -> None:
    ready = {"type": "Ready", "status": "True", "reason": "r", "message": "m"}
    kubectl.create("Node", "n1", status={"conditions": [ready]})
    kubectl("wait", "--for=condition=Ready", "node/n1", "--timeout=20s")
    assert kubectl("get", "nodes").split()[:7] == ["NAME", "STATUS", "ROLES", "AGE", "VERSION", "n1", "Ready"]
    assert "Ready" in kubectl("describe", "node", "n1")
    kubectl("cordon", "n1")
    assert "SchedulingDisabled" in kubectl("get", "node", "n1", "-o", "wide")
    kubectl("taint", "node", "n1", "key=value:NoSchedule")
    kubectl.create("Namespace", "shop")
    kubectl("-n", "shop", "create", "-f", "-", stdin={"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}})
    kubectl("delete", "namespace", "shop", "--timeout=20s")
    assert kubectl("get", "secrets", "-A", "-o", "name") == ""


def test_custom_resources_have_their_columns(kubectl: Kubectl) -> None:
    assert "created" in kubectl("apply", "-f", "-", stdin=warmimage_crd())
    assert "unchanged" in kubectl("apply", "-f", "-", stdin=warmimage_crd())
    kubectl("wait", "--for=condition=Established", "crd/warmimages.warmhook.dev", "--timeout=20s")
    name, reference = "web-1f0c2d9a7b", "harbor.example.com/shop/web:v1.2"
    image: Object = {"apiVersion": "warmhook.dev/v1alpha1", "kind": "WarmImage", "metadata": {"name": name}}
    image["spec"] = {"image": reference, "policyName": "shop"}
    assert "created" in kubectl("apply", "-f", "-", stdin=image)
    image["spec"]["digest"] = f"sha256:{'1' * 64}"
    assert "configured" in kubectl("apply", "-f", "-", stdin=image)
    ready = {"type": "Ready", "status": "True", "reason": "AllWarm", "message": ""}
    ready["lastTransitionTime"] = "2026-03-01T12:00:00Z"
    status = {"status": {"progress": "12/12", "conditions": [ready]}}
    kubectl("patch", "warmimage", name, "--subresource=status", "--type=merge", "-p", json.dumps(status))
    kubectl("wait", "--for=condition=Ready", f"warmimage/{name}", "--timeout=20s")
    header, row = kubectl("get", "wi").splitlines()
    assert header.split() == ["NAME", "POLICY", "IMAGE", "WARM", "READY", "AGE"]
    assert row.split()[:5] == [name, "shop", reference, "12/12", "True"]
    assert max(len(header.rstrip()), len(row.rstrip())) <= 80
    assert "DIGEST" in kubectl("get", "wi", "-o", "wide")
    assert reference in kubectl("describe", "warmimage", name)
    for selector in (f"spec.image={reference}", "spec.policyName=shop"):
        assert name in kubectl("get", "wi", "--field-selector", selector, "-o", "name")
    assert kubectl("get", "wi", "--field-selector", "spec.policyName=other", "-o", "name") == ""
    image["spec"]["image"] = "harbor.example.com/shop/web:v1.3"
    refused = kubectl.run("apply", "-f", "-", stdin=image)
    assert "create another WarmImage, and delete this one" in refused.stderr
    image["spec"] |= {"image": reference, "nope": 1}
    refused = kubectl.run("apply", "-f", "-", stdin=image)
    assert refused.returncode == 1
    assert 'unknown field "spec.nope"' in refused.stderr


def test_a_watch_prints_changes_as_they_come(kubectl: Kubectl) -> None:
    kubectl.create("ConfigMap", "watched")
    command = [kubectl.program, "get", "cm", "-w", "--field-selector=metadata.name=watched"]
    with (
        subprocess.Popen(command, env=kubectl.environment, stdout=subprocess.PIPE, bufsize=0) as watch,
        selectors.DefaultSelector() as ready,
    ):
        assert watch.stdout is not None
        ready.register(watch.stdout, selectors.EVENT_READ)
        shown = b""
        wanted = [rb"watched\s+0", rb"watched\s+1"]
        while wanted:
            assert ready.select(20), shown
            shown += watch.stdout.read(4096)
            if re.search(wanted[0], shown):
                del wanted[0]
                kubectl("patch", "cm", "watched", "-p", '{"data": {"a": "1"}}')
        watch.terminate()


def test_commands_that_send_protobuf_work(kubectl: Kubectl) -> None:
    kubectl("create", "namespace", "typed")
    kubectl("-n", "typed", "create", "secret", "generic", "s", "--from-literal=a=b")
    assert json.loads(kubectl("-n", "typed", "get", "secret", "s", "-o", "json"))["data"] == {"a": "Yg=="}
    kubectl("-n", "typed", "create", "role", "r", "--verb=get", "--resource=secrets", "--resource-name=s")
    kubectl("-n", "typed", "create", "rolebinding", "r", "--role=r", "--serviceaccount=typed:a")
    bound = json.loads(kubectl("-n", "typed", "get", "rolebinding", "r", "-o", "json"))
    assert bound["subjects"] == [{"kind": "ServiceAccount", "name": "a", "namespace": "typed"}]
    assert kubectl("auth", "can-i", "get", "secrets", "-n", "typed") == "yes\n"
    refused = kubectl.run("create", "deployment", "d", "--image=i")
    assert "this server reads no 'Deployment' as protobuf: send JSON" in refused.stderr


def test_events_are_described_with_their_object(kubectl: Kubectl) -> None:
    kubectl.create("ConfigMap", "observed")
    uid = json.loads(kubectl("get", "cm", "observed", "-o", "json"))["metadata"]["uid"]
    observed = {"apiVersion": "v1", "kind": "ConfigMap", "name": "observed", "namespace": "default", "uid": uid}
    kubectl.create(
        "Event", "e1", involvedObject=observed, reason="ImageWarm", message="all is warm", type="Normal", count=1
    )
    assert "all is warm" in kubectl("describe", "cm", "observed")
    assert "ImageWarm" in kubectl("get", "events")
