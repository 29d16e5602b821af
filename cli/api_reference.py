"""Write the reference of both kinds from their CustomResourceDefinitions."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final

from pydantic import BaseModel

from adapters.kubernetes.crd import structural_schema
from adapters.kubernetes.spec import LabelSelector
from adapters.kubernetes.template import NodeAffinity, TemplateSpec, TolerationSpec
from adapters.kubernetes.warmimage import Condition, warmimage_crd
from adapters.kubernetes.warmpolicy import warmpolicy_crd
from warmhook.ports import Object

_HEAD: Final = """\
# WarmPolicy and WarmImage

Every field of `warmhook.dev/v1alpha1`. This page is made from the CustomResourceDefinitions (`make crds`), as are the
descriptions of `kubectl explain warmimage.spec`. [README.md](../README.md) has examples.

The API server refuses unknown fields if the client asks for that, as kubectl does. Times are RFC 3339, durations are in
seconds. A field without a default is absent, with the meaning that its row gives.
"""
# Described once. Of the template only its fields: a WarmImage has the same ones in its spec.
_SHARED: Final[dict[str, type[BaseModel]]] = {
    "Template": TemplateSpec,
    "Label selector": LabelSelector,
    "Node affinity": NodeAffinity,
    "Toleration": TolerationSpec,
    "Condition": Condition,
}
_IN_SPEC: Final = frozenset(structural_schema(TemplateSpec)["properties"])


def api_reference() -> str:
    """The page, in Markdown."""
    parts = [_HEAD]
    for crd in (warmpolicy_crd(), warmimage_crd()):
        kind, schema = crd["spec"]["names"]["kind"], crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
        parts.append(f"## {kind}\n\n{schema['description']}\n")
        parts += [_table(schema["properties"][part], part) for part in ("spec", "status")]
        if kind == "WarmImage":
            links = ", ".join(f"`{name}`" for name in sorted(_IN_SPEC))
            parts.append(f"{links} of the spec are those of a [template](#template).\n")
    for title, model in _SHARED.items():
        schema = structural_schema(model)
        parts.append(f"## {title}\n\n{schema['description']}\n\n{_table(schema, '')}")
    return "\n".join(parts)


def _table(schema: Object, path: str) -> str:
    """The fields below `path` with their rules."""
    rows = ["| field | type | default | meaning |", "|---|---|---|---|"]
    rules = _rules(schema, path)
    for name, field, required in _fields(schema, path):
        default = "required" if required else _default(field)
        meaning = re.sub(r"([|*<])", r"\\\1", field.get("description", ""))
        rows.append(f"| `{name}` | {_type(field)} | {default} | {meaning} |")
        rules += [] if _shared(_item(field)) else _rules(field, name)
    return "\n".join([*rows, "", *rules, *([""] if rules else [])])


def _fields(schema: Object, path: str) -> Iterator[tuple[str, Object, bool]]:
    """Path, schema, and whether it is required."""
    for name, field in schema.get("properties", {}).items():
        if path == "spec" and name in _IN_SPEC:
            continue
        here = f"{path}.{name}" if path else name
        yield here, field, name in schema.get("required", [])
        inner = _item(field)
        if not _shared(inner):
            yield from _fields(inner, here + ("[]" if "items" in field else ""))


def _item(schema: Object) -> Object:
    """The schema of the items of a list; that of anything else."""
    item: Object = schema.get("items", schema)
    return item


def _shared(schema: Object) -> str:
    """The section that describes such objects; empty if the table does."""
    for title, model in _SHARED.items():
        if schema.get("properties") == structural_schema(model).get("properties"):
            return title
    return ""


def _type(schema: Object) -> str:
    if "items" in schema:
        return f"list of {_type(schema['items'])}, at most {schema['maxItems']}"
    if "additionalProperties" in schema:
        return f"map of {_type(schema['additionalProperties'])}, at most {schema['maxProperties']}"
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"] if value)
    if schema.get("format") == "date-time":
        return "time"
    title = _shared(schema)
    plain = (
        f"[{title.lower()}](#{title.lower().replace(' ', '-')})" if title else schema.get("type", "integer or string")
    )
    return f"{plain}, {_range(schema)}" if plain == "integer" else plain


def _range(schema: Object) -> str:
    if "maximum" not in schema:
        return f"at least {schema['minimum']}"
    return f"{schema['minimum']} to {schema['maximum']}"


def _default(schema: Object) -> str:
    default: Any = schema.get("default")
    if default in (None, {}, [], ""):
        return ""
    return f"`{default if isinstance(default, str) else json.dumps(default)}`"


def _rules(schema: Object, path: str) -> list[str]:
    found = [*schema.get("x-kubernetes-validations", []), *schema.get("items", {}).get("x-kubernetes-validations", [])]
    where = f"`{path}`: " if path else ""
    return [f"- {where}{message}." for message in dict.fromkeys(rule["message"] for rule in found)]
