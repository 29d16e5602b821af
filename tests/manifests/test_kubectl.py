"""What kubectl makes of the folders is what the other tests looked at."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.manifests.rendered import BASE, KNATIVE, UI, identity, render
from warmhook.delivery_records import CONFIGMAP

pytestmark = pytest.mark.e2e

OLDEST = 27
DOCS = Path(__file__).parents[2] / "docs"
# What kustomize appends to the names of generated ConfigMaps.
HASH = re.compile(r"\b(warmhook-(?:handlers-)?config)-[a-z0-9]{10}\b")


@pytest.fixture(scope="module")
def kubectl() -> str:
    program = shutil.which("kubectl")
    if program is None:
        pytest.skip("no kubectl on PATH")
    told = subprocess.run([program, "version", "--client", "-o", "json"], capture_output=True, check=True, timeout=60)
    if int(re.sub(r"\D", "", json.loads(told.stdout)["clientVersion"]["minor"])) < OLDEST:
        pytest.skip(f"kubectl is older than 1.{OLDEST}")
    return program


def kustomized(kubectl: str, folder: Path) -> str:
    done = subprocess.run([kubectl, "kustomize", str(folder)], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def by_identity(objects: list[Any]) -> dict[tuple[str, ...], Any]:
    return {identity(obj): obj for obj in objects}


@pytest.mark.parametrize("folder", [BASE, KNATIVE], ids=["base", "knative"])
def test_kubectl_builds_the_same_objects(kubectl: str, folder: Path) -> None:
    built = list(yaml.safe_load_all(HASH.sub(r"\1", kustomized(kubectl, folder))))
    assert by_identity(built) == by_identity(render(folder))


@pytest.mark.parametrize("folder", [BASE, KNATIVE], ids=["base", "knative"])
def test_configurations_are_mounted_under_the_name_they_get(kubectl: str, folder: Path) -> None:
    built = kustomized(kubectl, folder)
    named = {found.group() for found in HASH.finditer(built)}
    for obj in yaml.safe_load_all(built):
        template = (obj.get("spec") or {}).get("template") or {}
        for volume in (template.get("spec") or {}).get("volumes", []):
            if "configMap" in volume:
                assert volume["configMap"]["name"] in named
    assert {obj["metadata"]["name"] for obj in yaml.safe_load_all(built) if obj["kind"] == "ConfigMap"} == named | {
        CONFIGMAP
    }
    assert named


def test_the_component_of_the_page_adds_its_objects_and_gets_the_image(kubectl: str, tmp_path: Path) -> None:
    shutil.copytree(BASE.parent, tmp_path / "knative")
    overlay = tmp_path / "knative" / "mine"
    overlay.mkdir()
    image = {"name": "warmhook", "newName": "registry.example.com/tools/warmhook", "newTag": "1.0"}
    kustomization = {"resources": ["../base"], "components": ["../components/ui"], "images": [image]}
    (overlay / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    built = kustomized(kubectl, overlay)
    added = by_identity(list(yaml.safe_load_all(built))).keys() - by_identity(render(BASE)).keys()
    expected = {each[1:] for each in by_identity(render(UI))}
    assert {each[1:] for each in added if "config" not in each[3]} == expected
    assert set(re.findall(r"^ +image: (.+)$", built, flags=re.MULTILINE)) == {"registry.example.com/tools/warmhook:1.0"}


def test_one_image_is_set_everywhere_at_once(kubectl: str, tmp_path: Path) -> None:
    shutil.copytree(BASE.parent, tmp_path / "knative")
    overlay = tmp_path / "knative" / "mine"
    overlay.mkdir()
    image = {"name": "warmhook", "newName": "registry.example.com/tools/warmhook", "newTag": "1.0"}
    kustomization = {"resources": ["../overlays/knative"], "images": [image]}
    (overlay / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    images = set(re.findall(r"^ +image: (.+)$", kustomized(kubectl, overlay), flags=re.MULTILINE))
    assert images == {"registry.example.com/tools/warmhook:1.0"}


def test_the_folder_of_ones_own_in_the_docs_is_one(kubectl: str, tmp_path: Path) -> None:
    examples = re.findall(r"```yaml\n# (\S+)[^\n]*\n(.*?)```", (DOCS / "install.md").read_text(), flags=re.DOTALL)
    assert [name for name, _ in examples] == ["kustomization.yaml;", "config.yaml"]
    for overlay in ("../base", "../overlays/knative"):
        folder = tmp_path / overlay.rpartition("/")[2]
        shutil.copytree(BASE.parent, folder / "knative")
        (mine := folder / "knative" / "mine").mkdir()
        for name, text in examples:
            (mine / name.rstrip(";")).write_text(text.replace("- ../base", f"- {overlay}"))
        built = kustomized(kubectl, mine)
        assert "registryHost: harbor.example.com" in built
        assert set(re.findall(r"^ +image: (.+)$", built, flags=re.MULTILINE)) == {
            "registry.example.com/tools/warmhook:1.0"
        }
