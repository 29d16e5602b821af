"""Translate the errors of pydantic from the terms of Python into those of YAML and JSON."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final, TypeAlias

from pydantic import ValidationError

# By the error type of pydantic.
_PROBLEMS: Final = {
    "missing": "missing",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "model_type": "must be a mapping of keys to values",
    "model_attributes_type": "must be a mapping of keys to values",
    "dict_type": "must be a mapping of keys to values",
    "string_type": "must be a string",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "extra_forbidden": "no such key",
}


Problem: TypeAlias = tuple[tuple[str, ...], str]
"""The path of a field, and the problem, without the value."""


def first_problem(error: ValidationError) -> Problem:
    """The first error."""
    return problems(error)[0][0]


def problems(error: ValidationError, apart: Collection[str] = ()) -> tuple[list[Problem], list[Problem]]:
    """All errors, and those of the error types `apart` of pydantic by themselves."""
    found: tuple[list[Problem], list[Problem]] = ([], [])
    for each in error.errors(include_url=False, include_context=False, include_input=False):
        problem = tuple(map(str, each["loc"])), plain_message(each["type"], each["msg"])
        found[each["type"] in apart].append(problem)
    return found


def plain_message(kind: str, message: str) -> str:
    """The problem of pydantic's error type `kind`, whose own `message` may name classes of this program."""
    return _PROBLEMS.get(kind) or message.removeprefix("Value error, ").replace("Input should be", "must be", 1)
