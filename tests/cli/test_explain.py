"""`warmhook explain` prints the chain for people and for programs, whatever nodes and registries wrote."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from cli.explain.command import _show
from cli.output import OutputFormat
from warmhook.checks import Check
from warmhook.explain import Explanation
from warmhook.warmimages import ObjectKey

PULL = Check("runtime", "wrong", "no \x1b[2Jimage\r\n", "push it", "NotFound")
FOUND = Explanation("host/app:v1", "node-1", (Check("report", "ok", "it reports"), PULL), ObjectKey("shop", "app"), 1)


def shown(output: OutputFormat, capsys: pytest.CaptureFixture[str], found: Explanation = FOUND) -> str:
    _show(found, output)
    return capsys.readouterr().out


@pytest.mark.parametrize("output", ["table", "wide"])
def test_people_see_every_link_and_at_last_the_culprit(
    output: OutputFormat, capsys: pytest.CaptureFixture[str]
) -> None:
    text = shown(output, capsys)
    assert "\x1b" not in text
    assert "\r" not in text
    assert "host/app:v1 is not warm on node-1 (1 more WarmImage of the image)" in text
    assert text.splitlines()[-1].strip() == "-> push it"
    assert ("NotFound" in text) == (output == "wide")


@pytest.mark.parametrize("output", ["json", "yaml"])
def test_programs_get_the_same_as_an_object(output: OutputFormat, capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(output, capsys)
    found: dict[str, Any] = json.loads(text) if output == "json" else yaml.safe_load(text)
    assert (found["image"], found["node"], found["warm"]) == ("host/app:v1", "node-1", False)
    assert found["warmImage"] == "shop/app"
    assert found["firstProblem"]["reason"] == "NotFound"
    assert [check["subject"] for check in found["checks"]] == ["report", "runtime"]


def test_a_warm_image_has_no_first_problem(capsys: pytest.CaptureFixture[str]) -> None:
    warm = Explanation("host/app:v1", "node-1", (Check("runtime", "ok", "it has the image"),))
    assert "firstProblem" not in json.loads(shown("json", capsys, warm))
    assert shown("table", capsys, warm).splitlines()[-1] == "host/app:v1 is warm on node-1"
