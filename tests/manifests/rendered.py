"""Render a folder of manifests with as much of kustomize as ours use; a test compares the result with kubectl's."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml

from warmhook.ports import Object

__all__ = ["BASE", "KNATIVE", "UI", "containers", "find", "identity", "operate", "pod_templates", "render"]

_KNATIVE_FOLDER: Final = Path(__file__).parents[2] / "knative"
BASE: Final = _KNATIVE_FOLDER / "base"
KNATIVE: Final = _KNATIVE_FOLDER / "overlays" / "knative"
UI: Final = _KNATIVE_FOLDER / "components" / "ui"
"""A component: what it adds to either."""


def render(folder: Path) -> list[Object]:
    """The objects of the folder's kustomization. Generated ConfigMaps keep their plain names."""
    return copy.deepcopy(_render(folder))


@functools.cache
def _render(folder: Path) -> list[Object]:
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    objects: list[Object] = []
    for name in kustomization["resources"]:
        path = folder / name
        objects += render(path) if path.is_dir() else list(yaml.load_all(path.read_text(), yaml.CSafeLoader))
    for generator in kustomization.get("configMapGenerator", []):
        objects.append(_generated(folder, generator))
    for patch in kustomization.get("patches", []):
        (target,) = (obj for obj in objects if _is_meant(obj, patch["target"]))
        change = yaml.safe_load(patch["patch"])
        if isinstance(change, dict):
            assert change["$patch"] == "delete"
            objects.remove(target)
        else:
            for operation in change:
                operate(target, operation)
    for image in kustomization.get("images", []):
        for container in (each for obj in objects for each in containers(obj)):
            if container["image"].partition(":")[0] == image["name"]:
                container["image"] = f"{image['newName']}:{image['newTag']}"
    return objects


def _generated(folder: Path, generator: Object) -> Object:
    data = {}
    for file in generator["files"]:
        key, _, name = file.rpartition("=")
        data[key or name] = (folder / name).read_text()
    metadata = {"name": generator["name"], "namespace": generator["namespace"]}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


def _is_meant(obj: Object, target: Object) -> bool:
    version = target.get("version")
    return (
        obj["kind"] == target["kind"]
        and obj["metadata"]["name"] == target["name"]
        and (version is None or obj["apiVersion"] == version)
    )


def operate(obj: Any, operation: Object) -> None:
    """One operation of a JSON patch (RFC 6902)."""
    *path, last = (part.replace("~1", "/") for part in operation["path"].split("/")[1:])
    for part in path:
        obj = obj[int(part) if isinstance(obj, list) else part]
    if isinstance(obj, list) and last == "-":
        assert operation["op"] == "add", operation
        obj.append(copy.deepcopy(operation["value"]))
        return
    key: Any = int(last) if isinstance(obj, list) else last
    match operation["op"]:
        case "test":
            assert obj[key] == operation["value"], operation
        case "remove":
            del obj[key]
        case "replace" | "add" if isinstance(obj, dict) or operation["op"] == "replace":
            obj[key] = copy.deepcopy(operation["value"])
        case other:
            raise AssertionError(f"{other} is not used by our manifests")


def identity(obj: Object) -> tuple[str, str, str, str]:
    """What no two objects have in common: API version, kind, namespace, name."""
    metadata = obj["metadata"]
    return obj["apiVersion"], obj["kind"], metadata.get("namespace", ""), metadata["name"]


def find(objects: list[Object], kind: str, name: str, *, group: str = "") -> Object:
    """The one object of that kind and name; `group` tells apart kinds that several groups have."""
    (found,) = (
        obj
        for obj in objects
        if obj["kind"] == kind and obj["metadata"]["name"] == name and obj["apiVersion"].startswith(group)
    )
    return found


def pod_templates(objects: list[Object]) -> Iterator[tuple[Object, Object]]:
    """Everything that starts Pods, each with its Pod template."""
    for obj in objects:
        template = (obj.get("spec") or {}).get("template") or {}
        if "containers" in (template.get("spec") or {}):
            yield obj, template


def containers(obj: Object) -> list[Object]:
    """The containers of the Pods that an object starts."""
    return [container for _, template in pod_templates([obj]) for container in template["spec"]["containers"]]
