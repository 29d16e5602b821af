"""Does the page about senders tell of every kind, and would its examples start?"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from adapters.registries import adapter_kinds, find_adapters
from handlers.configuration import read_configuration

PAGE = (Path(__file__).parents[3] / "docs" / "senders.md").read_text()
TABLE = [line for line in PAGE.splitlines() if re.match(r"\| \[.*\(`[a-z]+`\)", line)]
EXAMPLES = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


def test_the_table_has_a_row_for_every_kind() -> None:
    kinds = [re.findall(r"\(`([a-z]+)`\)", line)[0] for line in TABLE]

    assert sorted(kinds) == adapter_kinds()
    assert all(line.count("|") == 6 for line in TABLE)
    assert all(cell.strip() for line in TABLE for cell in line.split("|")[1:-1])


@pytest.mark.parametrize("line", TABLE, ids=lambda line: line.split("|")[1].strip())
def test_every_row_leads_to_an_example(line: str) -> None:
    anchor = re.findall(r"\(#([a-z-]+)\)", line)[0]

    headings = [heading.lower().replace(" ", "-") for heading in re.findall(r"^## (.*)$", PAGE, re.MULTILINE)]
    assert anchor in headings


def test_every_kind_has_an_example_that_would_start(tmp_path: Path) -> None:
    kinds = []
    for number, example in enumerate(EXAMPLES):
        # The files are those of some machine, not of this one.
        path = tmp_path / f"{number}.yaml"
        path.write_text(re.sub(r"\{file: [^}]*\}", "{env: SECRET}", example))
        (configured,) = read_configuration(str(path), {"SECRET": "s3cret"}).sources.values()
        kinds.append(configured.adapter.kind)

    assert sorted(kinds) == adapter_kinds()


def test_the_page_says_of_every_patient_kind_what_is_lost() -> None:
    rows = PAGE.partition("## While the API server is down")[2].partition("## ")[0]
    names = {"dockerhub": "Docker Hub", "github": "GitHub", "nexus": "Nexus"}

    for kind, adapter in find_adapters().items():
        if adapter.patience_seconds:
            assert names.get(kind, kind.capitalize()) in rows


def test_the_examples_are_what_yaml_means() -> None:
    assert all(yaml.safe_load(example)["sources"] for example in EXAMPLES)
