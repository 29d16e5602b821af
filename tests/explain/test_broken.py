"""Each broken situation names its culprit, and a command that mends it."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import get_args

import click
import pytest

from cli.main import warmhook
from tests.explain import broken_nodes, broken_origins
from tests.explain.broken import TABLE
from tests.explain.scene import Scene, in_scene
from warmhook.explain import SUBJECTS
from warmhook.pull_failures import FailureReason

DOCS = Path(__file__).parents[2] / "docs"
MODULES = (broken_origins, broken_nodes)


PROGRAMS = {"kubectl", "warmhook", "ssh", "echo"}


def can_be_pasted(mend: str) -> bool:
    """Whether it is empty, a command, or ends with one; or says what to push to the registry."""
    if not mend or mend.startswith("push "):
        return True
    pasted = mend.rpartition(": " if ": kubectl" in mend else "\0")[2]
    return mend.isprintable() and shlex.split(pasted)[0] in PROGRAMS and has_its_options(pasted)


def has_its_options(pasted: str) -> bool:
    """Whether its commands of Warmhook, if it has any, have the arguments that they need."""
    commands = [shlex.split(each) for each in re.split(r" && | \| ", pasted)]
    return all(command_parses(words[1:]) for words in commands if words[0] == "warmhook")


def command_parses(words: list[str]) -> bool:
    """Whether the command takes these arguments; it is not run."""
    try:
        warmhook.commands[words[0]].make_context(words[0], words[1:])
    except click.UsageError:
        return False
    return True


@pytest.mark.parametrize("name", TABLE)
def test_it_names_the_culprit_and_what_mends_it(name: str) -> None:
    row = TABLE[name]

    async def case(scene: Scene) -> None:
        await row.break_it(scene)
        found = await scene.explain()
        told = "\n".join(map(str, found.checks))
        assert found.culprit is not None, told
        assert (found.culprit.subject, found.culprit.reason) == (row.subject, row.reason), told
        assert row.word in found.culprit.mend, told
        assert tuple(check.subject for check in found.checks) == SUBJECTS
        assert [check.mend for check in found.checks if not can_be_pasted(check.mend)] == []

    in_scene(case, **row.given)


def test_a_healthy_image_has_no_wrong_check() -> None:
    async def case(scene: Scene) -> None:
        await scene.warm()
        found = await scene.explain()
        assert found.warm
        assert [check for check in found.checks if check.state != "ok"] == []

    in_scene(case)


def test_the_page_has_every_culprit_of_the_table() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| .* \| (.*) \|$", (DOCS / "cli.md").read_text(), flags=re.MULTILINE))
    known = get_args(FailureReason)
    missing = {
        (row.subject, row.reason)
        for row in TABLE.values()
        if f"`{row.reason}`" not in rows.get(row.subject, "") and row.subject != "delivery" and row.reason not in known
    }
    assert missing == set()
    assert set(SUBJECTS) <= rows.keys()
