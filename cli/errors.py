"""What does a command say when it cannot do what it was asked?"""

from __future__ import annotations

import click

__all__ = ["Failed", "Unusable"]


class Unusable(click.ClickException):
    """The command cannot start as it was called; the message says what to do."""

    exit_code = 2


class Failed(click.ClickException):
    """The command began and could not go on; the message is one line, with the end of a program's log below it."""

    exit_code = 1
