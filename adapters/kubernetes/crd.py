"""Build a CustomResourceDefinition from a pydantic model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from adapters.kubernetes.schemas import structural_schema
from warmhook.api import GROUP, VERSION
from warmhook.ports import Object


@dataclass(frozen=True, slots=True)
class Column:
    """One column of `kubectl get`."""

    name: str
    type: str
    path: str
    priority: int = 0
    """Greater than 0: only with `-o wide`."""


def custom_resource_definition(
    kind: str, plural: str, short_name: str, model: type[BaseModel], columns: Sequence[Column]
) -> Object:
    """The CRD of a namespaced kind whose spec and status `model` describes."""
    schema = structural_schema(model)
    # The API server adds apiVersion, kind and metadata.
    schema["required"] = ["spec"]
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": kind,
                "listKind": f"{kind}List",
                "plural": plural,
                "singular": kind.lower(),
                "shortNames": [short_name],
                "categories": ["warmhook"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": [_column(column) for column in columns],
                    "schema": {"openAPIV3Schema": schema},
                }
            ],
        },
    }


def _column(column: Column) -> dict[str, Any]:
    shown: dict[str, Any] = {"name": column.name, "type": column.type, "jsonPath": column.path}
    return shown | ({"priority": column.priority} if column.priority else {})
