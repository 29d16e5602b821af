"""Parse label and field selectors. Comparisons of numbers (`<`, `>`) are not supported here.

https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#label-selectors
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from devcluster.apiserver.errors import bad_request
from warmhook.ports import Object

LabelTerm = Callable[[Mapping[str, str]], bool]
"""One requirement on an object's labels."""
FieldTerm = tuple[str, str, bool]
"""Field, value, and whether they must be equal (else: must differ)."""

_KEY = r"(?:[a-z0-9](?:[-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
_VALUE = r"(?:[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?"
_TERM = re.compile(
    rf"""\s*(?: !\s*(?P<absent>{_KEY})
              | (?P<key>{_KEY}) (?: \s*(?P<operator>==|=|!=)\s*(?P<value>{_VALUE})
                                | \s+(?P<set>in|notin)\s*\((?P<values>\s*{_VALUE}\s*(?:,\s*{_VALUE}\s*)*)\) )?
        )\s*(?P<end>,|$)""",
    re.VERBOSE,
)


def parse_labels(text: str) -> list[LabelTerm]:
    """The requirements of a `labelSelector`, all of which must hold. Raises `StatusError` 400."""
    terms: list[LabelTerm] = []
    at = 0
    while text[at:].strip():
        found = _TERM.match(text, at)
        if found is None:
            raise bad_request(f"unable to parse requirement: {text[at:]!r}")
        terms.append(_label_term(found))
        at = found.end()
    return terms


def _label_term(found: re.Match[str]) -> LabelTerm:
    absent, key, operator, value, choice = found.group("absent", "key", "operator", "value", "set")
    if absent:
        return lambda labels: absent not in labels
    if choice:
        values = {each.strip() for each in found["values"].split(",")}
        return lambda labels: (labels.get(key) in values) == (choice == "in")
    if operator:
        return lambda labels: (labels.get(key) == value) == (operator != "!=")
    return lambda labels: key in labels


def parse_fields(text: str, known: Mapping[str, str]) -> list[FieldTerm]:
    """The terms of a `fieldSelector`; `known` names the fields that the kind allows. Raises `StatusError` 400."""
    terms: list[FieldTerm] = []
    for part in text.split(","):
        if not part:
            continue
        found = re.fullmatch(r"([^=!]+)(==|!=|=)(.*)", part)
        if found is None:
            raise bad_request(f"invalid selector: {text!r}; can't understand {part!r}")
        field, operator, value = found.groups()
        if field not in known:
            allowed = ", ".join(f'"{name}"' for name in known)
            raise bad_request(f'"{field}" is not a known field selector: only {allowed}')
        terms.append((field, value, operator != "!="))
    return terms


def value_at(obj: Object, path: str) -> str:
    """A field of an object as selectors compare it: absent is the empty string."""
    value: Any = obj
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)
