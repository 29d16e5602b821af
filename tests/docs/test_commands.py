"""The commands that pages name exist."""

from __future__ import annotations

import re

from cli.main import warmhook
from tests.docs.test_site import PAGES


def test_every_command_that_a_page_names_exists() -> None:
    text = "".join(path.read_text() for path in PAGES.values())
    named = set(re.findall(r"(?:`|^\$ (?:\S*/)?|-- )(?:warmhook|kubectl warm) ([a-z]+)\b", text, flags=re.MULTILINE))
    assert len(named) > 5
    assert named <= warmhook.commands.keys()
