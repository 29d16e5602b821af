"""Print what a command found: as a table, as JSON or as YAML, with colours on terminals only."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple, TypeAlias, TypeVar

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


class Styled(NamedTuple):
    """A cell with a colour, which only terminals show."""

    text: str
    colour: str


Cell: TypeAlias = str | Styled


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
    """Print plain values as one JSON or YAML document, in ASCII: some terminals act on characters above it too."""
    if output == "json":
        click.echo(json.dumps(found, indent=2))
        return
    # Imported here: it takes a tenth of a second.
    import yaml

    click.echo(yaml.safe_dump(found, sort_keys=False, allow_unicode=False), nl=False)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> None:
    """Print rows below their headings, columns aligned on the left.

    Cells may be from registries and nodes, so what a terminal would act on is left out; only `Styled` has a colour.
    """
    cells: list[list[Cell]] = [list(columns), *(list(row) for row in rows)]
    widths = [max(len(_text(row[index])) for row in cells) for index in range(len(columns))]
    for row in cells:
        padded = (_coloured(cell) + " " * (width - len(_text(cell))) for cell, width in zip(row, widths, strict=True))
        click.echo((" " * _GAP).join(padded).rstrip())


def print_checks(checks: Iterable[Check]) -> None:
    """Print one line per check, and what mends it below."""
    found = list(checks)
    width = max((len(check.subject) for check in found), default=0)
    for check in found:
        state = click.style(f"{check.state:<8}", fg=_COLOURS[check.state])
        click.echo(f"{state} {check.subject:<{width}}  {printable(check.message)}")
        if check.mend:
            click.echo(f"{'':<8} {'':<{width}}  -> {printable(check.mend)}")


def is_live() -> bool:
    """Whether a person watches, so that lines may be rewritten."""
    return sys.stdout.isatty()


def printable(text: str) -> str:
    """`text` on one line without what a terminal would act on: it may be from a registry or a node."""
    return text if text.isprintable() else "".join(letter if letter.isprintable() else " " for letter in text)


def _text(cell: Cell) -> str:
    return printable(cell.text if isinstance(cell, Styled) else cell)


def _coloured(cell: Cell) -> str:
    return click.style(_text(cell), fg=cell.colour) if isinstance(cell, Styled) else _text(cell)
