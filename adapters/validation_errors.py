"""Translate the errors of pydantic from the terms of Python into those of YAML and JSON."""

from __future__ import annotations

from typing import Final

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


def first_problem(error: ValidationError) -> tuple[tuple[str, ...], str]:
    """The first error: the path of the field and the problem, without the value."""
    problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
    return tuple(map(str, problem["loc"])), plain_message(problem["type"], problem["msg"])


def plain_message(kind: str, message: str) -> str:
    """The problem of pydantic's error type `kind`, whose own `message` may name classes of this program."""
    return _PROBLEMS.get(kind) or message.removeprefix("Value error, ").replace("Input should be", "must be", 1)
