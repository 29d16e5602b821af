"""Every claim of the comparison names tests, and these exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "comparison.md").read_text()
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for table in re.findall(r"^\| they \| Warmhook \| shown by \|\n\|[-|]+\|\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    for line in table.splitlines()
]


def test_every_test_that_the_comparison_names_exists() -> None:
    named = set(re.findall(r"`([\w/]+\.py)::(test_\w+)`", PAGE))
    assert len(named) > 50
    missing = {
        f"{file}::{name}"
        for file, name in named
        if not re.search(rf"^(?:async )?def {name}\(", _source(file), re.MULTILINE)
    }
    assert missing == set()


def test_every_row_of_the_comparison_names_a_test_or_says_that_warmhook_does_not_do_it() -> None:
    assert len(ROWS) > 50
    assert [row for row in ROWS if len(row) != 3] == []
    assert [row[0] for row in ROWS if "::test_" not in row[2] and not row[1].startswith("**No")] == []


def _source(file: str) -> str:
    path = ROOT / "tests" / file
    return path.read_text() if path.exists() else ""
