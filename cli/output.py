"""Print what a command found: as a table, as JSON or as YAML, with colours on terminals only."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias, TypeVar

import click

from warmhook.checks import Check, CheckState

OutputFormat: TypeAlias = Literal["table", "wide", "json", "yaml"]
_Command = TypeVar("_Command", bound=Callable[..., Any])

_COLOURS: Final[Mapping[CheckState, str]] = {
    "ok": "green",
    "waiting": "cyan",
    "wrong": "red",
    "unknown": "yellow",
    "skipped": "bright_black",
}
_GAP: Final = 3
"""Spaces between columns, as kubectl has."""


def output_option(command: _Command) -> _Command:
    """Add `-o`, which the command gets as `output`."""
    option = click.option(
        "-o",
        "--output",
        type=click.Choice(["table", "wide", "json", "yaml"]),
        default="table",
        show_default=True,
        help="The format; wide adds columns.",
    )
    return option(command)


def print_object(found: Mapping[str, Any] | Sequence[Any], output: Literal["json", "yaml"]) -> None:
    """Print plain values as one JSON or YAML document."""
    if output == "json":
        click.echo(json.dumps(found, indent=2, ensure_ascii=False))
        return
    # Imported here: it takes a tenth of a second.
    import yaml

    click.echo(yaml.safe_dump(found, sort_keys=False, allow_unicode=True), nl=False)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows below their headings, columns aligned on the left. Cells may be styled with `click.style`.

    Cells may be from registries and nodes: control characters are left out, but for the colours of `click.style`.
    """
    cells = [list(columns), *(list(map(_printable, row)) for row in rows)]
    widths = [max(len(click.unstyle(row[index])) for row in cells) for index in range(len(columns))]
    for row in cells:
        padded = (cell + " " * (width - len(click.unstyle(cell))) for cell, width in zip(row, widths, strict=True))
        click.echo((" " * _GAP).join(padded).rstrip())


def print_checks(checks: Iterable[Check]) -> None:
    """Print one line per check, and what mends it below."""
    found = list(checks)
    width = max((len(check.subject) for check in found), default=0)
    for check in found:
        state = click.style(f"{check.state:<8}", fg=_COLOURS[check.state])
        click.echo(f"{state} {check.subject:<{width}}  {_printable(check.message)}")
        if check.mend:
            click.echo(f"{'':<8} {'':<{width}}  -> {_printable(check.mend)}")


def is_live() -> bool:
    """Whether a person watches, so that lines may be rewritten."""
    return sys.stdout.isatty()


def _printable(text: str) -> str:
    """`text` without control characters, but for ANSI styles."""
    plain = click.unstyle(text)
    return text if plain.isprintable() else "".join(letter if letter.isprintable() else " " for letter in plain)
