"""What commands print is safe for a terminal, aligned for people and plain for programs."""

from __future__ import annotations

import json
from typing import Literal

import click
import pytest
import yaml

from cli.main import main, warmhook
from cli.output import Styled, print_checks, print_object, print_table
from tests.support.terminal import terminal
from warmhook.checks import Check

HOSTILE = "a\x1b[2J\x1b[31mb\x9b1A\nc\u202ed\x07"


def test_columns_are_as_wide_as_their_widest_cell_and_no_line_ends_in_spaces(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_table(("NAME", "STATE"), [("a", Styled("warm", "green")), ("longer", "failed"), ("b", "")])
    assert capsys.readouterr().out == "NAME     STATE\na        warm\nlonger   failed\nb\n"


def test_nothing_that_a_terminal_acts_on_leaves_a_table_or_a_check(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("NAME", "STATE"), [(HOSTILE, Styled(HOSTILE, "red"))])
    print_checks([Check("report", "wrong", HOSTILE, mend=HOSTILE)])
    out = capsys.readouterr().out
    assert {letter for letter in out if not letter.isprintable()} == {"\n"}
    assert out.count("\n") == 4


@pytest.mark.parametrize("output", ["json", "yaml"])
def test_documents_hold_every_value_and_nothing_that_a_terminal_acts_on(
    output: Literal["json", "yaml"], capsys: pytest.CaptureFixture[str]
) -> None:
    found = {"yes": "no", "message": HOSTILE, "nodes": ["é"], "count": 2, "none": None}
    print_object(found, output)
    out = capsys.readouterr().out
    assert (json.loads(out) if output == "json" else yaml.safe_load(out)) == found
    assert not {"\x1b", "\x9b", "\x07"} & set(out)
    # Nor what turns the direction of what follows.
    assert out.isascii()


@pytest.mark.parametrize(
    ("environ", "coloured"),
    [({"TERM": "xterm"}, True), ({"TERM": "xterm", "NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)],
    ids=["terminal", "NO_COLOR", "dumb"],
)
def test_colours_are_for_terminals_that_want_them(
    environ: dict[str, str], coloured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    @click.command("shine")
    def shine() -> None:
        print_table(("STATE",), [(Styled("warm", "green"),)])

    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setitem(warmhook.commands, "shine", shine)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    with terminal(monkeypatch) as shown:
        main(["shine"])
    assert ("\x1b[32mwarm" in shown[0]) is coloured


def test_no_colours_leave_for_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("STATE",), [(Styled("warm", "green"),)])
    assert "\x1b" not in capsys.readouterr().out
