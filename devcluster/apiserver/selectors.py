"""Which objects does a label or field selector choose? Grammar and answers of the real server."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from devcluster.apiserver.errors import bad_request
from warmhook.ports import Object

__all__ = ["FieldTerm", "LabelTerm", "parse_fields", "parse_labels", "value_at"]

LabelTerm = Callable[[Mapping[str, str]], bool]
"""One requirement on an object's labels."""
FieldTerm = tuple[str, str, bool]
"""Field, value, and whether they must be equal (else: must differ)."""

_TOKEN = re.compile(r"\s*(!=|==|=|!|\(|\)|,|<|>|[^\s,!=<>()]+)")
_KEY = re.compile(r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
_COMPARED = "in, notin, =, ==, !=, gt, lt"
_SYMBOLS = frozenset(("!=", "==", "=", "!", "(", ")", ",", "<", ">"))


def _tokens(text: str) -> list[str]:
    tokens: list[str] = []
    at = 0
    while text[at:].strip():
        found = _TOKEN.match(text, at)
        if found is None:
            raise bad_request(f"unable to parse requirement: unexpected {text[at]!r}")
        tokens.append(found[1])
        at = found.end()
    return tokens


class _Labels:
    """A reader of label requirements."""

    def __init__(self, text: str) -> None:
        self._tokens = _tokens(text)
        self._at = 0

    def _peek(self) -> str:
        return self._tokens[self._at] if self._at < len(self._tokens) else ""

    def _next(self) -> str:
        token = self._peek()
        self._at += 1
        return token

    def _key(self) -> str:
        key = self._next()
        if not _KEY.fullmatch(key):
            raise bad_request(f"unable to parse requirement: invalid label key {key!r}")
        return key

    def _value(self) -> str:
        value = "" if self._peek() in (*_SYMBOLS, "") else self._next()
        if not _VALUE.fullmatch(value):
            raise bad_request(f"unable to parse requirement: invalid label value {value!r}")
        return value

    def _values(self) -> frozenset[str]:
        if (mark := self._next()) != "(":
            raise bad_request(f"unable to parse requirement: found '{mark}' expected: '('")
        values = {self._value()}
        while (mark := self._next()) != ")":
            if mark != ",":
                raise bad_request(f"unable to parse requirement: found '{mark}', expected: ',' or ')'")
            values.add(self._value())
        return frozenset(values)

    def _term(self) -> LabelTerm:
        if self._peek() == "!":
            self._next()
            key = self._key()
            return lambda labels: key not in labels
        key = self._key()
        operator = self._peek()
        if operator in ("", ","):
            return lambda labels: key in labels
        self._next()
        return self._comparison(key, operator)

    def _comparison(self, key: str, operator: str) -> LabelTerm:
        if operator in ("=", "=="):
            value = self._value()
            return lambda labels: labels.get(key) == value
        if operator == "!=":
            value = self._value()
            return lambda labels: labels.get(key) != value
        if operator == "in":
            values = self._values()
            return lambda labels: labels.get(key) in values
        if operator == "notin":
            values = self._values()
            return lambda labels: labels.get(key) not in values
        if operator in ("<", ">"):
            return _ordered(key, operator, self._value())
        raise bad_request(f"unable to parse requirement: found '{operator}', expected: {_COMPARED}")

    def read(self) -> list[LabelTerm]:
        """All requirements."""
        terms: list[LabelTerm] = []
        while self._peek():
            terms.append(self._term())
            if self._peek() and self._next() != ",":
                raise bad_request("unable to parse requirement: expected ','")
        return terms


def _ordered(key: str, operator: str, value: str) -> LabelTerm:
    try:
        bound = int(value)
    except ValueError:
        raise bad_request(f"unable to parse requirement: {value!r} is not an integer") from None

    def holds(labels: Mapping[str, str]) -> bool:
        try:
            number = int(labels[key])
        except (KeyError, ValueError):
            return False
        return number < bound if operator == "<" else number > bound

    return holds


def parse_labels(text: str) -> list[LabelTerm]:
    """The requirements of a `labelSelector`, all of which must hold. Raises `StatusError` 400."""
    return _Labels(text).read()


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
