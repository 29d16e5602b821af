"""The chart installs the objects of kustomize, but for differences that are listed here with their reason."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.chart.helm import CHART, helm, template
from tests.manifests.rendered import BASE, KNATIVE, identity, render
from warmhook import __version__
from warmhook.ports import Object

pytestmark = pytest.mark.slow

UI: Final = BASE.parent / "components" / "ui"
FORMS: Final = {
    "base": ([BASE], {}),
    "knative": ([KNATIVE], {"knative": {"enabled": True}}),
    "base with the page": ([BASE, UI], {"ui": {"enabled": True}}),
}

forms = pytest.mark.parametrize(("folders", "values"), FORMS.values(), ids=FORMS)

# Helm marks what it owns, and tools find by it what a chart installed.
MARKS: Final = {"app.kubernetes.io/managed-by", "helm.sh/chart"}
# `helm uninstall` deletes neither policies and images of users, nor the Secrets that an operator put there.
KEPT: Final = {"Namespace", "CustomResourceDefinition"}
KEEP: Final = {"helm.sh/resource-policy": "keep"}
# kustomize gives a changed configuration another name, which starts new Pods; the chart writes its checksum.
CHECKSUM: Final = "checksum/config"


def differences(ours: Any, theirs: Any, path: str = "") -> Iterator[str]:
    """Where two values differ, field by field."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key in ours.keys() | theirs.keys():
            yield from differences(ours.get(key), theirs.get(key), f"{path}.{key}")
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for index, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            yield from differences(one, other, f"{path}[{index}]")
    elif ours != theirs:
        yield f"{path}: {ours!r} in the chart, {theirs!r} of kustomize"


def without_marks(obj: Object) -> Object:
    """The object without what the lists above explain; each must be there."""
    metadata = dict(obj["metadata"])
    labels = metadata.pop("labels")
    assert labels.keys() >= MARKS
    assert labels["app.kubernetes.io/managed-by"] == "Helm"
    if left := {key: value for key, value in labels.items() if key not in MARKS}:
        metadata["labels"] = left
    if obj["kind"] in KEPT:
        assert metadata.pop("annotations") == KEEP
    template = (obj.get("spec") or {}).get("template") or {}
    if any("configMap" in volume for volume in template.get("spec", {}).get("volumes", [])):
        annotations = template["metadata"]["annotations"]
        assert len(annotations.pop(CHECKSUM)) == 64
        if not annotations:
            del template["metadata"]["annotations"]
    return {**obj, "metadata": metadata}


def meaning(obj: Object) -> Object:
    """A configuration file without its comments, which values.yaml has."""
    if obj["kind"] == "ConfigMap":
        return {**obj, "data": {key: yaml.safe_load(text) for key, text in obj.get("data", {}).items()}}
    return obj


@forms
def test_every_object_of_the_chart_is_that_of_kustomize(folders: list[Path], values: Object) -> None:
    ours = {identity(obj): meaning(without_marks(obj)) for obj in template(values)}
    theirs = {identity(obj): meaning(obj) for folder in folders for obj in render(folder)}
    assert ours.keys() == theirs.keys()
    assert [(name, found) for name, obj in ours.items() for found in differences(obj, theirs[name])] == []


def test_a_packaged_chart_has_everything_that_the_folder_has(tmp_path: Path) -> None:
    done = helm("package", str(CHART), "--destination", str(tmp_path))
    assert done.returncode == 0, done.stderr
    (package,) = tmp_path.iterdir()
    assert package.name == f"warmhook-{__version__}.tgz"
    assert template(chart=package) == template()


def test_helm_finds_no_fault_with_the_chart() -> None:
    done = helm("lint", "--strict", "--kube-version", "1.36.0", str(CHART))
    assert (done.returncode, "[WARNING]" in done.stdout, "[ERROR]" in done.stdout) == (0, False, False), done.stdout
    assert "1 chart(s) linted, 0 chart(s) failed" in done.stdout


def test_chart_and_programs_have_one_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (__version__, __version__)


def test_the_namespace_of_the_release_is_not_created_because_helm_needs_it_before() -> None:
    made = {
        obj["metadata"]["name"] for obj in template({}, "--namespace", "warmhook-system") if obj["kind"] == "Namespace"
    }
    assert made == {"warmhook-agents"}
