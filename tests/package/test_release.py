"""A release is checked, described and rendered by one script, which says in one line what keeps it from being made."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Final

import pytest
import yaml

import warmhook
from tests.chart.helm import template
from tests.manifests.rendered import containers
from tests.real.programs import need
from tests.support.image import ROOT

pytestmark = pytest.mark.slow

VERSION: Final = warmhook.__version__
NAME: Final = "registry.example.com/tools/warmhook"
DIGEST: Final = "sha256:" + "5" * 64
FILES: Final = (
    ".ci/release.py",
    "CHANGELOG.md",
    "warmhook/__init__.py",
    "charts/warmhook/Chart.yaml",
    "knative/base/kustomization.yaml",
    "knative/overlays/knative/kustomization.yaml",
    "knative/components/ui/page.yaml",
)


def release(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = (sys.executable, str(root / ".ci/release.py"), *arguments)
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the files with a version, whose changelog has the date of the release."""
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, tmp_path / name)
    change(tmp_path, "CHANGELOG.md", rf"^## {re.escape(VERSION)} .*$", f"## {VERSION} (2026-12-01)")
    return tmp_path


def change(root: Path, name: str, pattern: str, text: str) -> None:
    changed, count = re.subn(pattern, text, (root / name).read_text(), count=1, flags=re.MULTILINE)
    assert count == 1
    (root / name).write_text(changed)


def test_every_file_of_this_checkout_says_the_same_version(checkout: Path) -> None:
    done = release(checkout, "check", f"v{VERSION}")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("warmhook/__init__.py", r'(?<=__version__ = ")[^"]+'),
        ("charts/warmhook/Chart.yaml", r"(?<=^version: ).+"),
        ("charts/warmhook/Chart.yaml", r'(?<=^appVersion: ")[^"]+'),
        ("knative/base/kustomization.yaml", r'(?<=newTag: ")[^"]+'),
        ("knative/overlays/knative/kustomization.yaml", r'(?<=newTag: ")[^"]+'),
        ("knative/components/ui/page.yaml", r"(?<=image: warmhook:).+"),
    ],
)
def test_a_file_with_another_version_keeps_the_release_from_being_made(checkout: Path, name: str, pattern: str) -> None:
    change(checkout, name, pattern, "9.9.9")
    done = release(checkout, "check", f"v{VERSION}")
    assert (done.returncode, done.stderr) == (1, f"{name} has 9.9.9, not {VERSION}\n")


def test_a_version_that_the_changelog_does_not_date_is_not_released(checkout: Path) -> None:
    change(checkout, "CHANGELOG.md", r"\(2026-12-01\)$", "(unreleased)")
    done = release(checkout, "check", f"v{VERSION}")
    assert done.returncode == 1
    assert done.stderr.startswith(f"CHANGELOG.md: the heading of {VERSION} needs the date")
    assert "CHANGELOG.md has no heading for 7.0.0" in release(checkout, "check", "v7.0.0").stderr


@pytest.mark.parametrize("tag", ["1.2.3", "v1.2", "v1.2.3-rc.1", "", "v1.2.3\nv"])
def test_a_tag_of_another_form_is_not_released(checkout: Path, tag: str) -> None:
    done = release(checkout, "check", tag)
    assert done.returncode == 1
    assert "is not of the form v1.2.3" in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_notes_of_a_release_are_its_section_of_the_changelog(checkout: Path) -> None:
    (checkout / "CHANGELOG.md").write_text(
        "# C\n\n## 0.2.0 (2026-12-01)\n\n- New.\n\n## 0.1.0 (2026-11-01)\n\n- First.\n"
    )
    assert release(checkout, "notes", "0.2.0").stdout == "- New.\n"
    assert release(checkout, "notes", "0.1.0").stdout == "- First.\n"
    done = release(checkout, "notes", "0.3.0")
    assert (done.returncode, done.stderr) == (1, "release: CHANGELOG.md says nothing about 0.3.0\n")


@pytest.mark.parametrize("image", ["warmhook", "ghcr.io/a/warmhook", "ghcr.io/a/b:1@sha256:12", "ghcr.io/a/b:1\nx: y"])
def test_an_image_of_another_form_is_refused_before_anything_is_written(tmp_path: Path, image: str) -> None:
    for command in ("manifests", "chart"):
        done = release(ROOT, command, image, str(tmp_path))
        assert done.returncode == 1
        assert "is not of the form HOST/NAME:TAG" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("image", "used"), [(f"{NAME}:1.0@{DIGEST}", f"{NAME}@{DIGEST}"), (f"{NAME}:1.0", f"{NAME}:1.0")]
)
def test_the_manifests_of_a_release_run_its_image_and_no_other(tmp_path: Path, image: str, used: str) -> None:
    need("kubectl", "kubectl")
    done = release(ROOT, "manifests", image, str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    assert {path.name for path in tmp_path.iterdir()} == {"warmhook.yaml", "warmhook-knative.yaml"}
    for path in tmp_path.iterdir():
        objects = [obj for obj in yaml.safe_load_all(path.read_text()) if obj]
        assert {container["image"] for obj in objects for container in containers(obj)} == {used}
    assert list(ROOT.glob(".release-*")) == []


def test_the_chart_of_a_release_has_its_image_as_the_default_and_its_manifests_as_files(tmp_path: Path) -> None:
    need("helm", "helm")
    done = release(ROOT, "chart", f"{NAME}:{VERSION}@{DIGEST}", str(tmp_path))
    assert done.returncode == 0, done.stderr
    with tarfile.open(tmp_path / f"warmhook-{VERSION}.tgz") as package:
        assert "warmhook/manifests/base/web.yaml" in package.getnames()
        values = yaml.safe_load(package.extractfile("warmhook/values.yaml") or b"")
    assert (values["image"]["repository"], values["image"]["digest"]) == (NAME, DIGEST)
    rendered = template(chart=tmp_path / f"warmhook-{VERSION}.tgz")
    assert {each["image"] for obj in rendered for each in containers(obj)} == {f"{NAME}@{DIGEST}"}
