"""docs/cli.md describes every command of an operator, and each word that it prints."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

from cli.main import warmhook
from warmhook.image_status import State
from warmhook.line_differences import DIFFERENCES, Difference

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "cli.md").read_text()
README = (ROOT / "README.md").read_text()
ELSEWHERE = {"crds", "demo", "devcluster", "parse", "unpin"}
"""Described where they are used."""


def words(title: str) -> set[str]:
    """The words in the first column of the tables of a section."""
    section = PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`[^|]*) \|", section, flags=re.MULTILINE)
    return {word for row in rows for word in re.findall(r"`(\w+)`", row)}


@pytest.mark.parametrize("command", sorted(set(warmhook.commands) - ELSEWHERE))
def test_every_command_of_an_operator_has_a_section_a_row_and_a_row_in_the_readme(command: str) -> None:
    assert PAGE.count(f"\n## {command}\n") == 1
    assert len(re.findall(rf"^\| \[`{command}`\]", PAGE, flags=re.MULTILINE)) == 1
    assert re.search(rf"^\| `warmhook {command}[` ]", README, flags=re.MULTILINE)


def test_every_state_of_an_image_is_explained() -> None:
    # What is stopped is shown by its reason.
    assert set(get_args(State)) - {"stopped"} <= words("status")


def test_every_difference_is_explained_in_the_page_and_by_the_command() -> None:
    assert words("diff") == set(get_args(Difference)) == set(DIFFERENCES)
