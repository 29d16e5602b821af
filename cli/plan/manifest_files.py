"""Read the WarmPolicies and WarmImages of YAML files, as `kubectl apply -f` reads them."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from adapters.strictyaml import decode_all
from cli.errors import Failed, Unusable
from warmhook.api import API_VERSION
from warmhook.ports import Object

KINDS: Final = {"WarmPolicy": "warmpolicies", "WarmImage": "warmimages"}

_VALUES_MAX: Final = 200_000


@dataclass(frozen=True, slots=True)
class Manifests:
    """What the files have."""

    objects: tuple[Object, ...]
    """WarmPolicies and WarmImages with a namespace and a name, in the order of the files."""
    others: int = 0
    """Objects of other kinds."""
    namespaces: frozenset[str] = frozenset()
    """The names of the Namespaces among them."""


def read_manifests(files: Iterable[str], namespace: str, *, given: bool) -> Manifests:
    """The objects of the files, `-` being standard input; those without a namespace are in `namespace`.

    If the namespace was `given` on the command line, an object of another one is an error, as it is for kubectl.
    Raises `Unusable` for a file that cannot be read, and `Failed` for one that has no such objects.
    """
    objects: list[Object] = []
    namespaces: set[str] = set()
    others = 0
    for file in files:
        for obj in _documents(file):
            kind = obj.get("kind")
            if kind not in KINDS or not str(obj.get("apiVersion", "")).startswith("warmhook.dev/"):
                others += 1
                if kind == "Namespace" and isinstance(metadata := obj.get("metadata"), dict):
                    namespaces.add(str(metadata.get("name")))
                continue
            if obj["apiVersion"] != API_VERSION:
                raise Failed(f"{file}: {kind}: apiVersion {obj['apiVersion']!r} is not known; expected {API_VERSION}")
            objects.append(_complete(obj, file, namespace, given=given))
    if not objects:
        raise Failed(f"{', '.join(files)}: no WarmPolicy and no WarmImage; is it the right file?")
    return Manifests(tuple(objects), others, frozenset(namespaces))


def _documents(file: str) -> Iterator[Object]:
    name = "standard input" if file == "-" else file
    for document in _decoded(file, name):
        if document is None:
            continue
        if not isinstance(document, dict):
            raise Failed(f"{name}: a document is no object; expected apiVersion, kind, metadata and spec")
        # As `kubectl get -o yaml` prints several.
        items = document.get("items") if document.get("kind") == "List" else None
        for item in items if isinstance(items, list) else [document]:
            if isinstance(item, dict):
                yield item


def _decoded(file: str, name: str) -> list[Any]:
    try:
        content = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
        documents = decode_all(content.decode())
    except OSError as error:
        raise Unusable(f"{file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise Failed(f"{name}: is not UTF-8") from None
    except yaml.YAMLError as error:
        raise Failed(f"{name}: is no YAML: {_place(error)}") from None
    except RecursionError:
        raise Failed(f"{name}: is nested too deeply") from None
    if not _is_bounded(documents):
        raise Failed(f"{name}: has more than {_VALUES_MAX} values")
    return documents


def _complete(obj: Object, file: str, namespace: str, *, given: bool) -> Object:
    metadata: Any = obj.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    if not isinstance(name, str) or not name:
        raise Failed(f"{file}: {obj['kind']}: metadata.name: is required")
    own = metadata.get("namespace") or namespace
    if not isinstance(own, str):
        raise Failed(f"{file}: {obj['kind']} {name}: metadata.namespace: must be a string")
    if given and own != namespace:
        raise Unusable(f"{file}: {obj['kind']} {name} is in namespace {own}, and -n says {namespace}")
    kept = {key: metadata[key] for key in ("labels", "annotations") if key in metadata}
    return {**obj, "metadata": {"name": name, "namespace": own, **kept}}


def _is_bounded(documents: list[Any]) -> bool:
    """Whether the documents have few values, each alias counted as what it stands for."""
    left, count = list(documents), 0
    while left and count <= _VALUES_MAX:
        value, count = left.pop(), count + 1
        if isinstance(value, dict):
            left += value.values()
        elif isinstance(value, list):
            left += value
    return count <= _VALUES_MAX


def _place(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}, column {error.problem_mark.column + 1}: {error.problem}"
    return "control characters"
