"""Does a `matchConditions` expression hold? CEL, over the variables that an admission request has."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import celpy
from celpy.adapter import json_to_cel
from celpy.celparser import CELParseError
from celpy.celtypes import BoolType
from celpy.evaluation import CELEvalError

from warmhook.ports import Json

__all__ = ["NotACondition", "Undecided", "check", "holds"]


class NotACondition(ValueError):
    """The text is no CEL expression."""


class Undecided(Exception):
    """The expression has no value for this request: it failed, or is neither true nor false."""


@lru_cache(maxsize=64)
def _program(expression: str) -> celpy.Runner:
    environment = celpy.Environment()
    try:
        return environment.program(environment.compile(expression))
    except CELParseError as error:
        raise NotACondition(" ".join(str(error).split())) from error


def check(expression: str) -> None:
    """Raise `NotACondition` for what cannot be evaluated."""
    _program(expression)


def holds(expression: str, variables: Mapping[str, Json]) -> bool:
    """Evaluate it over `object`, `oldObject` and `request`. Raises `Undecided`."""
    activation = {name: json_to_cel(value) for name, value in variables.items()}
    try:
        value = _program(expression).evaluate(activation)
    except CELEvalError as error:
        raise Undecided(" ".join(str(error).split())) from error
    if not isinstance(value, BoolType):
        raise Undecided("the expression is neither true nor false")
    return bool(value)
