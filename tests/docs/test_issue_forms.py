"""The forms for issues are what GitHub can show, and ask for the output of commands that exist."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from cli.main import warmhook

FORMS: Final = {
    path.stem: yaml.safe_load(path.read_text())
    for path in (Path(__file__).parents[2] / ".github" / "ISSUE_TEMPLATE").glob("*.yml")
    if path.stem != "config"
}


def test_there_is_a_form_for_bugs_features_and_senders() -> None:
    assert FORMS.keys() == {"bug", "feature", "sender"}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_form_has_the_fields_that_github_knows(form: dict[str, Any]) -> None:
    # https://docs.github.com/en/communities/using-templates-to-encourage-useful-issues-and-pull-requests/syntax-for-githubs-form-schema
    assert form.keys() == {"name", "description", "labels", "body"}
    asked = [part for part in form["body"] if part["type"] != "markdown"]
    assert any(part.get("validations", {}).get("required") for part in asked)
    assert len({part["id"] for part in asked}) == len(asked)
    for part in asked:
        assert part["type"] in {"textarea", "input"}
        assert part.keys() <= {"type", "id", "attributes", "validations"}
        assert part["attributes"]["label"]
        assert part["attributes"].keys() <= {"label", "description", "render"}


def test_the_commands_that_forms_ask_for_exist() -> None:
    asked = set(re.findall(r"`warmhook (\w+)", str(FORMS)))
    assert asked == {"doctor", "explain", "parse"}
    assert asked <= warmhook.commands.keys()
