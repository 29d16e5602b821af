"""The CRDs in the manifests are those of the code."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from cli.crds import crd_files
from cli.main import main

MANIFESTS = Path(__file__).parents[2] / "knative" / "base" / "crds"


@pytest.mark.parametrize("name", ["warmpolicies.yaml", "warmimages.yaml"])
def test_the_manifests_are_up_to_date(name: str) -> None:
    assert (MANIFESTS / name).read_text() == crd_files()[name], "stale: warmhook crds --output-dir knative/base/crds"


def test_prints_one_document_for_each_kind(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["crds"]) == 0
    names = [crd["metadata"]["name"] for crd in yaml.safe_load_all(capsys.readouterr().out)]
    assert names == ["warmpolicies.warmhook.dev", "warmimages.warmhook.dev"]


def test_writes_the_same_bytes_each_time(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "crds"
    assert main(["crds", "--output-dir", str(folder)]) == 0
    assert {file.name: file.read_text() for file in folder.iterdir()} == crd_files()
