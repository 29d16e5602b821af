"""Errors that end a command with one line."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import click


class Unusable(click.ClickException):
    """The command cannot start with these arguments; the message says what to do."""

    exit_code = 2


class Failed(click.ClickException):
    """The command began and could not go on; the message is one line, with the end of a program's log below it."""

    exit_code = 1


class NotCompared(Failed):
    """A comparison could not be made: 1 would say that something differs."""

    exit_code = 2


@contextlib.contextmanager
def needing_extra(extras: str) -> Iterator[None]:
    """Raise `Unusable` if a module that is imported within the context, and that `extras` have, is not installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise Unusable(f"no module {error.name!r} is installed: run pip install 'warmhook[{extras}]'") from error
