"""The CRDs in the manifests, and their reference, are those of the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from cli.api_reference import api_reference
from cli.crds import crd_files
from cli.main import main
from tests.support.crds import every_field

ROOT = Path(__file__).parents[2]
MANIFESTS = ROOT / "knative" / "base" / "crds"
REFERENCE = ROOT / "docs" / "api.md"


@pytest.mark.parametrize("name", ["warmpolicies.yaml", "warmimages.yaml"])
def test_the_manifests_are_up_to_date(name: str) -> None:
    assert (MANIFESTS / name).read_text() == crd_files()[name], "stale: warmhook crds --output-dir knative/base/crds"


def test_the_reference_is_up_to_date() -> None:
    assert REFERENCE.read_text() == api_reference(), "stale: make crds"


def test_the_reference_has_every_field_of_both_kinds() -> None:
    rows = set(re.findall(r"^\| `([^`]+)` \|", api_reference(), re.MULTILINE))
    for path, _ in every_field():
        field = path.partition(".")[2]
        if "." in field and not field.endswith(("[]", ".*")):
            # What several fields have is described once.
            assert any(field == row or field.endswith(f".{row}") for row in rows), path


def test_writes_the_reference_to_a_file(tmp_path: Path) -> None:
    assert main(["crds", "--reference", str(tmp_path / "api.md")]) == 0
    assert (tmp_path / "api.md").read_text() == api_reference()
    assert main(["crds", "--reference", str(tmp_path / "none" / "api.md")]) == 2


def test_prints_one_document_for_each_kind(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["crds"]) == 0
    names = [crd["metadata"]["name"] for crd in yaml.safe_load_all(capsys.readouterr().out)]
    assert names == ["warmpolicies.warmhook.dev", "warmimages.warmhook.dev"]


def test_writes_the_same_bytes_each_time(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "crds"
    assert main(["crds", "--output-dir", str(folder)]) == 0
    assert {file.name: file.read_text() for file in folder.iterdir()} == crd_files()
