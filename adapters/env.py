"""Read settings from the environment: one typed reader per form, with errors that name the variable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

_Choice = TypeVar("_Choice", bound=str)


class BadSetting(ValueError):
    """An invalid setting; the message names the variable and the expected form. Programs exit with 2."""


def text(environ: Mapping[str, str], name: str, default: str | None = None) -> str:
    """The value of the variable; the default if it is unset or empty. Raises `BadSetting` without a default."""
    value = environ.get(name) or default
    if value is None:
        raise BadSetting(f"{name} is not set, and there is no default")
    return value


def number(environ: Mapping[str, str], name: str, default: int, *, minimum: int, maximum: int) -> int:
    """A whole number within both bounds. Raises `BadSetting`."""
    value = environ.get(name) or str(default)
    # `int` would also accept '1_000', ' 7' and digits of other scripts, and has its own error for thousands of digits.
    is_number = value.isascii() and value.isdigit() and len(value) <= 20
    if not is_number or not minimum <= int(value) <= maximum:
        raise BadSetting(f"{name} must be a whole number from {minimum} to {maximum}, not {value[:50]!r}")
    return int(value)


def choice(environ: Mapping[str, str], name: str, default: _Choice, allowed: Sequence[_Choice]) -> _Choice:
    """One of `allowed`. Raises `BadSetting`."""
    value = environ.get(name) or default
    for each in allowed:
        if each == value:
            return each
    raise BadSetting(f"{name} must be one of {', '.join(each or repr('') for each in allowed)}, not {value!r}")


def flag(environ: Mapping[str, str], name: str) -> bool:
    """`true` or `false`; false if it is unset. Raises `BadSetting`."""
    return choice(environ, name, "false", ("true", "false")) == "true"
