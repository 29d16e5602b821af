"""Workflows of GitHub have the least permissions, run pinned actions, and call only targets and files that exist."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import Any, Final

import pytest
import yaml

from tests.support.image import ROOT

FOLDER: Final = ROOT / ".github" / "workflows"
NAMES: Final = ("ci.yml", "release.yml")
WRITES: Final = {
    ("release.yml", "image"): {"packages", "id-token"},
    ("release.yml", "index"): {"id-token"},
    ("release.yml", "publish"): {"contents", "id-token"},
}
"""What a job may write."""


@functools.cache
def workflow(name: str) -> dict[str, Any]:
    # BaseLoader: YAML 1.1 takes `on` for true.
    found: dict[str, Any] = yaml.load((FOLDER / name).read_text(), yaml.CBaseLoader)
    return found


def jobs(name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    yield from workflow(name)["jobs"].items()


def steps(name: str) -> Iterator[dict[str, Any]]:
    for _, job in jobs(name):
        yield from job.get("steps", ())


def test_these_are_all_workflows() -> None:
    assert {path.name for path in FOLDER.iterdir()} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_job_may_write_only_what_it_publishes(name: str) -> None:
    assert workflow(name)["permissions"] == {}
    for job, given in jobs(name):
        writes = {scope for scope, access in given["permissions"].items() if access == "write"}
        assert writes == WRITES.get((name, job), set()), job
        assert set(given["permissions"].items()) - {(scope, "write") for scope in writes} <= {("contents", "read")}


@pytest.mark.parametrize("name", NAMES)
def test_every_action_is_pinned_by_its_commit_with_the_version_beside_it(name: str) -> None:
    lines = re.findall(r"uses: (.*)$", (FOLDER / name).read_text(), re.MULTILINE)
    assert lines
    for line in lines:
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+|\./\.github/workflows/\w+\.yml", line), line


def test_an_action_has_the_same_commit_everywhere() -> None:
    text = "".join((FOLDER / name).read_text() for name in NAMES)
    pins = set(re.findall(r"uses: (\S+)@(\S+)", text))
    assert len(pins) == len({action for action, _ in pins})


@pytest.mark.parametrize("name", NAMES)
def test_every_target_and_file_that_a_step_calls_exists(name: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    text = "\n".join(step.get("run", "") for step in steps(name))
    called = set(re.findall(r"(?:^|[;{(] *)\s*make (?:--\S+ )*([a-z-]+)", text, re.MULTILINE))
    assert called
    assert called <= targets
    assert all((ROOT / file).is_file() for file in re.findall(r"(?<!\S)(\.ci/\w+)", text))
    for _, job in jobs(name):
        assert "uses" not in job or (ROOT / job["uses"]).is_file()


@pytest.mark.parametrize("name", NAMES)
def test_no_step_puts_what_others_write_into_its_script(name: str) -> None:
    for step in steps(name):
        assert "${{" not in step.get("run", ""), "give it to the script as a variable"


@pytest.mark.parametrize("name", NAMES)
def test_no_checkout_keeps_its_credentials_and_every_job_ends(name: str) -> None:
    for step in steps(name):
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] == "false"
    assert all("uses" in job or int(job["timeout-minutes"]) <= 90 for _, job in jobs(name))


def test_a_push_ends_no_run_of_a_release() -> None:
    release = workflow("release.yml")
    assert release["on"] == {"push": {"tags": ["v*"]}}
    assert release["concurrency"]["cancel-in-progress"] == "false"


def before(name: str) -> set[str]:
    """The jobs that have to succeed before this job of a release."""
    needs = dict(jobs("release.yml"))[name].get("needs", [])
    direct = {needs} if isinstance(needs, str) else set(needs)
    return direct.union(*(before(each) for each in direct))


def test_nothing_is_published_before_versions_agree_and_everything_was_tested() -> None:
    publishing = {job for (name, job) in WRITES if name == "release.yml"}
    assert all({"agree", "ci"} <= before(job) for job in publishing)
    assert publishing - {"publish"} <= before("publish")


def test_ci_runs_the_check_on_every_python_of_the_package_and_what_the_script_of_ci_runs() -> None:
    found = dict(jobs("ci.yml"))
    project = (ROOT / "pyproject.toml").read_text()
    assert found["check"]["strategy"]["matrix"]["python"] == re.findall(r"Python :: (3\.\d+)", project)
    assert ".ci/run" in found["everything"]["steps"][-1]["run"]
