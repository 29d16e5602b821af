"""Check, describe and render a release: `python3 .ci/release.py --help`. Needs nothing but Python, kubectl and helm."""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
FORMS: Final = {"warmhook": "knative/base", "warmhook-knative": "knative/overlays/knative"}
"""Name of the file with the manifests, and their folder."""
_IMAGE: Final = re.compile(r"(?P<name>[\w.:/-]+/[\w./-]+):(?P<tag>[\w][\w.-]*)(@(?P<digest>sha256:[0-9a-f]{64}))?")
_PLACES: Final = (
    ("warmhook/__init__.py", r'^__version__ = "(.+)"$'),
    ("charts/warmhook/Chart.yaml", r"^version: (.+)$"),
    ("charts/warmhook/Chart.yaml", r'^appVersion: "(.+)"$'),
    ("knative/base/kustomization.yaml", r'^ +newTag: "(.+)"$'),
    ("knative/overlays/knative/kustomization.yaml", r'^ +newTag: "(.+)"$'),
    ("knative/components/ui/page.yaml", r"^ +image: warmhook:(.+)$"),
)
"""File, and the line with the version in it."""


def problems(tag: str) -> Iterator[str]:
    """What keeps `tag` from being released, a line each."""
    if not re.fullmatch(r"v\d+\.\d+\.\d+", tag):
        yield f"the tag {tag!r} is not of the form v1.2.3"
        return
    version = tag.removeprefix("v")
    for name, line in _PLACES:
        found = re.findall(line, (ROOT / name).read_text(), re.MULTILINE)
        if found != [version]:
            yield f"{name} has {' and '.join(found) or 'no version'}, not {version}"
    heading = re.search(rf"^## {re.escape(version)}\b *(.*)$", _changelog(), re.MULTILINE)
    if not heading:
        yield f"CHANGELOG.md has no heading for {version}"
    elif not re.fullmatch(r"\(\d{4}-\d\d-\d\d\)", heading[1]):
        yield f"CHANGELOG.md: the heading of {version} needs the date of the release, as in `## {version} (2026-01-31)`"


def notes(version: str) -> str:
    """The section of the version in the changelog. Raises `ValueError`."""
    found = re.search(rf"^## {re.escape(version)}\b.*\n(?s:(.*?))(?=^## |\Z)", _changelog(), re.MULTILINE)
    if not found or not found[1].strip():
        raise ValueError(f"CHANGELOG.md says nothing about {version}")
    return f"{found[1].strip()}\n"


def write_manifests(image: str, folder: Path) -> None:
    """Render each form with the image, into a file of `folder`. Raises `ValueError`, `CalledProcessError`."""
    name, tag, digest = _parts(image)
    pinned = f"digest: {digest}" if digest else f'newTag: "{tag}"'
    for file, form in FORMS.items():
        # kustomize takes a base by a relative path only.
        with tempfile.TemporaryDirectory(dir=ROOT, prefix=".release-") as temporary:
            lines = [f"resources: [../{form}]", "images:", "- name: warmhook", f"  newName: {name}", f"  {pinned}"]
            (Path(temporary) / "kustomization.yaml").write_text("\n".join(lines) + "\n")
            rendered = subprocess.run(["kubectl", "kustomize", temporary], check=True, stdout=subprocess.PIPE).stdout
        (folder / f"{file}.yaml").write_bytes(rendered)


def write_chart(image: str, folder: Path) -> None:
    """Package the chart with the image as its default. Raises `ValueError`, `CalledProcessError`."""
    name, _, digest = _parts(image)
    with tempfile.TemporaryDirectory() as temporary:
        chart = Path(temporary) / "warmhook"
        # Its manifests are a link to their folder.
        shutil.copytree(ROOT / "charts" / "warmhook", chart)
        values = (chart / "values.yaml").read_text()
        for line, value in (
            ("  repository: warmhook", f"  repository: {name}"),
            ('  digest: ""', f'  digest: "{digest}"'),
        ):
            if values.count(f"\n{line}\n") != 1:
                raise ValueError(f"values.yaml has not one line {line!r}")
            values = values.replace(f"\n{line}\n", f"\n{value}\n")
        (chart / "values.yaml").write_text(values)
        subprocess.run(["helm", "package", str(chart), "--destination", str(folder)], check=True)


def _parts(image: str) -> tuple[str, str, str]:
    """Name, tag and digest; without a digest it is empty."""
    found = _IMAGE.fullmatch(image)
    if not found:
        raise ValueError(f"the image {image!r} is not of the form HOST/NAME:TAG or HOST/NAME:TAG@sha256:DIGEST")
    return found["name"], found["tag"], found["digest"] or ""


def _changelog() -> str:
    return (ROOT / "CHANGELOG.md").read_text()


def main(arguments: list[str]) -> int:
    """Return the exit status: 1 with a line for each problem."""
    parser = argparse.ArgumentParser(prog="release", description=__doc__.partition(":")[0] if __doc__ else None)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("check", help="whether all versions are that of the tag").add_argument("tag")
    commands.add_parser("notes", help="what the changelog says").add_argument("version")
    for command, what in (("manifests", "the manifests of each form"), ("chart", "the chart as a package")):
        rendering = commands.add_parser(command, help=f"{what}, with an image")
        rendering.add_argument("image")
        rendering.add_argument("folder", type=Path)
    given = parser.parse_args(arguments)
    try:
        match given.command:
            case "check":
                found = list(problems(given.tag))
                sys.stderr.writelines(f"{problem}\n" for problem in found)
                return 1 if found else 0
            case "notes":
                sys.stdout.write(notes(given.version))
            case "manifests":
                write_manifests(given.image, given.folder)
            case "chart":
                write_chart(given.image, given.folder)
    except (ValueError, OSError, subprocess.CalledProcessError) as error:
        sys.stderr.write(f"release: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
