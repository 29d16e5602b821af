"""Every kind is documented on the page about senders or in its module, with an example that would start."""

from __future__ import annotations

import json
import re
import shlex
import textwrap
from importlib import import_module
from pathlib import Path

import pytest
import yaml

from adapters.registries import adapter_kinds, find_adapter
from adapters.strictyaml import decode
from handlers.configuration import read_configuration

PAGE = (Path(__file__).parents[3] / "docs" / "senders.md").read_text()
TABLE = [line for line in PAGE.splitlines() if re.match(r"\| \[.*\(`[a-z]+`\)", line)]
LISTED = [re.findall(r"\(`([a-z]+)`\)", line)[0] for line in TABLE]
EXAMPLES = re.findall(r"^```yaml\n(sources:\n.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
JOBS = re.findall(r"^```yaml\n# (\.\S+)\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


def _example(kind: str) -> str:
    """The block after `Example::` in the docstring of a module; empty if there is none."""
    doc = import_module(f"adapters.registries.{kind}").__doc__ or ""
    return textwrap.dedent("\n".join(re.findall(r"^    .*$", doc.partition("\nExample::\n")[2], re.MULTILINE)))


# The documentation of a new sender is in its module until a release gives it a row and a section.
IN_MODULES = {kind: example for kind in adapter_kinds() if (example := _example(kind))}


def test_every_kind_has_a_row_or_an_example_in_its_module() -> None:
    assert sorted([*LISTED, *IN_MODULES]) == adapter_kinds()
    assert all(line.count("|") == 6 for line in TABLE)
    assert all(cell.strip() for line in TABLE for cell in line.split("|")[1:-1])


@pytest.mark.parametrize("line", TABLE, ids=lambda line: line.split("|")[1].strip())
def test_every_row_leads_to_an_example(line: str) -> None:
    anchor = re.findall(r"\(#([a-z-]+)\)", line)[0]

    headings = [heading.lower().replace(" ", "-") for heading in re.findall(r"^## (.*)$", PAGE, re.MULTILINE)]
    assert anchor in headings


def test_every_kind_has_an_example_that_would_start(tmp_path: Path) -> None:
    kinds = []
    for number, example in enumerate([*EXAMPLES, *IN_MODULES.values()]):
        # The files of the example are those of another machine.
        path = tmp_path / f"{number}.yaml"
        path.write_text(re.sub(r"(?<!keys: )\{file: [^}]*\}", "{env: SECRET}", example))
        (configured,) = read_configuration(str(path), {"SECRET": "s3cret"}).sources.values()
        kinds.append(configured.adapter.kind)

    assert sorted(kinds) == adapter_kinds()


def test_the_page_says_what_an_outage_costs_each_sender_that_does_not_repeat() -> None:
    rows = PAGE.partition("## While the API server is down")[2].partition("## ")[0]
    names = {"dockerhub": "Docker Hub", "github": "GitHub", "webhook": "`webhook`", "zot": "| zot |"}

    for kind in LISTED:
        if find_adapter(kind).ack_timeout_seconds:
            assert names.get(kind, kind.capitalize()) in rows


def test_the_examples_are_valid_yaml() -> None:
    assert all(yaml.safe_load(example)["sources"] for example in EXAMPLES)


def test_every_block_of_yaml_is_a_configuration_or_a_job() -> None:
    assert PAGE.count("```yaml\n") == len(EXAMPLES) + len(JOBS)
    assert [name for name, _ in JOBS] == [".github/workflows/release.yaml", ".gitlab-ci.yml"]


def test_the_jobs_have_the_fields_that_their_systems_read() -> None:
    workflow, pipeline = (decode(text) for _, text in JOBS)

    steps = workflow["jobs"]["image"]["steps"]
    assert all(("uses" in step) != ("run" in step) for step in steps)
    assert steps[-1]["env"].keys() == {"WARMHOOK_SECRET", "IMAGE"}
    assert pipeline["warm"].keys() == {"stage", "image", "rules", "script"}
    for script in (steps[-1]["run"], *pipeline["warm"]["script"]):
        assert shlex.split(script)[0] == "curl"


def test_the_examples_for_the_senders_own_configuration_are_well_formed() -> None:
    sinks = re.findall(r"^```json\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    notifiers = re.findall(r"^```\n(notif.*?)^```", PAGE, re.DOTALL | re.MULTILINE)

    assert [json.loads(sink)["extensions"]["events"]["sinks"][0]["type"] for sink in sinks] == ["http"]
    assert [list(decode(notifier)) for notifier in notifiers] == [["notifications"], ["notif"]]
