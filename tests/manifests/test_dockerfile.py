"""The image is built from locked packages, holds the programs and nothing else, and runs as a user that exists."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Final

import pytest

import warmhook
from tests.manifests.rendered import BASE, KNATIVE, containers, find, pod_templates, render
from tests.support.image import INSTRUCTIONS

ROOT: Final = Path(__file__).parents[2]
PROGRAMS: Final = ("warmhook", "adapters", "handlers", "nodeagent", "cli")
RUN: Final = [text for word, text in INSTRUCTIONS if word == "RUN"]


def test_every_package_that_is_downloaded_is_locked_by_its_hash() -> None:
    for command in (part.strip() for text in RUN for part in text.split("&&")):
        if re.search(r"\bpip\b.* (install|wheel) ", command):
            assert re.search(
                r"--require-hashes -r requirements(-build)?\.txt$|--no-deps .*(--no-index|--no-build-isol)", command
            )
    for lock in ("requirements.txt", "requirements-build.txt"):
        assert any(text.endswith(f"--require-hashes -r {lock}") for text in RUN)


def test_the_build_requirements_are_locked_as_for_development() -> None:
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    locked = (ROOT / "requirements-build.txt").read_text()
    packages = re.split(r"\n(?=[a-z0-9])", locked.strip())
    assert [re.split(r"[=>]", package)[0] for package in packages] == [re.split(r"[=>]", it)[0] for it in wanted]
    assert all(
        "--hash=sha256:" in package and package in (ROOT / "requirements-dev.txt").read_text() for package in packages
    )


def test_every_package_of_the_project_is_in_the_image_but_the_cluster_of_the_demo() -> None:
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    packages = {name.rstrip("*") for name in tools["packages"]["find"]["include"]}
    copied = [text.split() for word, text in INSTRUCTIONS if word == "COPY"]
    # Of the command the modules at the top, and each folder but the demo.
    folders = {f"cli/{path.parent.name}" for path in (ROOT / "cli").glob("*/__init__.py")} - {"cli/demo_run"}
    of_command = [names for names in copied if names[0].startswith("cli/")]
    assert sorted(of_command) == [["cli/*.py", "cli/"], *([folder, folder] for folder in sorted(folders))]
    copied_whole = {name for names in copied for name in names if not name.startswith("cli/")}
    assert (packages | {"pyproject.toml", "README.md", "LICENSE"}) - copied_whole == {"cli", "devcluster"}
    assert not {".", "devcluster", "cli", "tests"} & copied_whole


def test_every_dependency_of_the_project_is_imported_by_a_program() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    files = [path for name in PROGRAMS for path in (ROOT / name).rglob("*.py") if "demo_run" not in path.parts]
    importing = re.compile(r"^\s*(?:import|from) (\w+)", re.MULTILINE)
    imported = {name for path in files for name in importing.findall(path.read_text())}
    known = packages_distributions()
    used = {each.lower().replace("_", "-") for name in imported for each in known.get(name, ())}
    requirements = [*project["dependencies"], *project["optional-dependencies"]["programs"]]
    wanted = {re.split(r"[\[>=<~!]", requirement)[0] for requirement in requirements}
    # The protocol of uvicorn that `web` chooses imports it.
    assert wanted - used == {"httptools"}


def test_both_stages_have_the_same_base_because_the_venv_names_its_python() -> None:
    assert [text.split()[0] for word, text in INSTRUCTIONS if word == "FROM"] == ["${BASE}", "${BASE}"]
    (base,) = (text for word, text in INSTRUCTIONS if word == "ARG" and text.startswith("BASE"))
    assert re.fullmatch(r"BASE=python:3\.11-slim-[a-z]+", base)


def test_the_user_of_the_image_has_a_name_and_a_home_and_is_that_of_the_manifests() -> None:
    (user,) = (text for word, text in INSTRUCTIONS if word == "USER")
    assert any(f"useradd --uid {user}" in text and "--home-dir" in text for text in RUN)
    for obj, template in pod_templates(render(KNATIVE)):
        for container in template["spec"]["containers"]:
            context = {**template["spec"].get("securityContext", {}), **container["securityContext"]}
            assert str(context["runAsUser"]) == user or obj["kind"] == "DaemonSet"


@pytest.mark.parametrize("folder", [BASE, KNATIVE], ids=["base", "knative"])
def test_the_tag_in_the_manifests_is_this_version_and_an_agent_starts_without_its_registry(folder: Path) -> None:
    objects = render(folder)
    images = {container["image"] for obj in objects for container in containers(obj)}
    assert images == {f"warmhook:{warmhook.__version__}"}
    (agent,) = containers(find(objects, "DaemonSet", "warmhook-agent"))
    assert agent["imagePullPolicy"] == "IfNotPresent"
