"""The wheel holds the programs and what they read, and alone it gives the operator's command all that it imports."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib.metadata import distribution
from pathlib import Path
from typing import Final

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from cli.main import warmhook
from tests.support.apiserver import apiserver
from tests.support.image import ROOT, copy_package, site_packages

pytestmark = pytest.mark.slow

PROJECT: Final = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PACKAGES: Final = {"warmhook", "adapters", "handlers", "nodeagent", "devcluster", "cli"}


def names(dist: Path) -> set[str]:
    (wheel,) = dist.glob("*.whl")
    return set(zipfile.ZipFile(wheel).namelist())


def metadata(dist: Path) -> str:
    (wheel,) = dist.glob("*.whl")
    (name,) = (name for name in names(dist) if name.endswith(".dist-info/METADATA"))
    return zipfile.ZipFile(wheel).read(name).decode()


def test_the_wheel_holds_every_file_of_the_packages_and_no_others(dist: Path) -> None:
    listed = subprocess.run(["git", "ls-files", *PACKAGES], cwd=ROOT, capture_output=True, text=True, check=True)
    files = {name for name in listed.stdout.splitlines() if (ROOT / name).is_file()}
    assert {"handlers/ui/templates/base.html", "handlers/ui/static/page.css", "cli/py.typed"} <= files
    held = {name for name in names(dist) if ".dist-info/" not in name}
    assert held == files


def test_the_wheel_has_its_licence_and_the_three_commands(dist: Path) -> None:
    held = {name.partition(".dist-info/")[2] for name in names(dist)}
    assert {"licenses/LICENSE", "METADATA", "entry_points.txt"} <= held
    assert PROJECT["scripts"].keys() == {"warmhook", "kubectl-warm", "kubectl_complete-warm"}


def test_the_metadata_says_what_an_index_shows(dist: Path) -> None:
    text = metadata(dist)
    for field in ("Summary", "Keywords", "License-Expression", "Requires-Python", "Project-URL", "Classifier"):
        assert re.search(rf"^{field}: .+", text, re.MULTILINE), field
    assert "License-Expression: Apache-2.0\n" in text
    (site,) = re.findall(r"^site_url: (.+)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert all(url.startswith(site) for url in PROJECT["urls"].values())
    assert set(re.findall(r"^Provides-Extra: (.+)$", text, re.MULTILINE)) == {"programs", "dev"}


def test_the_source_distribution_builds_the_wheel_and_has_no_tests(dist: Path) -> None:
    (source,) = dist.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "cli/main.py", "handlers/ui/templates/base.html"} <= held
    assert not {name for name in held if name.startswith(("tests/", "docs/", "knative/"))}


def closure(requirements: list[str]) -> set[str]:
    """What pip would install for the requirements, as installed here."""
    found: set[str] = set()
    waiting = [Requirement(text) for text in requirements]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        wanted = waiting.pop()
        key = (canonicalize_name(wanted.name), frozenset(wanted.extras))
        if key in seen:
            continue
        seen.add(key)
        found.add(key[0])
        for text in distribution(wanted.name).requires or ():
            needed = Requirement(text)
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in ("", *wanted.extras)):
                waiting.append(needed)
    return found


def test_the_lock_of_the_image_is_what_the_package_and_its_programs_need() -> None:
    locked = set(re.findall(r"^(\S+)==", (ROOT / "requirements.txt").read_text(), re.MULTILINE))
    assert closure([*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["programs"]]) == locked


@pytest.fixture(scope="module")
def venv(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `pip install warmhook` leaves, without an index: the wheel, and copies of what it depends on."""
    folder = tmp_path_factory.mktemp("installed")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], check=True)
    for name in closure(PROJECT["dependencies"]):
        copy_package(name, site_packages(folder / "venv"))
    (wheel,) = dist.glob("*.whl")
    pip = (
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(folder / "venv"),
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
    )
    subprocess.run([*pip, str(wheel)], check=True)
    return folder / "venv"


def run(venv: Path, *arguments: str, program: str = "warmhook", **environ: str) -> subprocess.CompletedProcess[str]:
    """What the command prints in an environment that knows nothing of this checkout."""
    command = (str(venv / "bin" / program), *arguments)
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, cwd=venv, env={"HOME": "/", **environ}
    )


def test_every_command_explains_itself_with_the_package_alone(venv: Path) -> None:
    assert {"cloudevents", "grpc", "cri_api", "prometheus_client", "uvloop"}.isdisjoint(
        path.name for path in site_packages(venv).iterdir()
    )
    for command in warmhook.commands:
        done = run(venv, command, "--help")
        assert (done.returncode, done.stderr) == (0, ""), command
        assert f"Usage: warmhook {command}" in done.stdout


def test_every_module_of_the_operators_commands_can_be_imported_with_the_package_alone(venv: Path) -> None:
    local = {"cli.local", "cli.unpin", "cli.main"}
    modules = {f"cli.{file.stem}" for file in (ROOT / "cli").glob("*.py") if file.stem != "__init__"} - local
    # What `warmhook ui` imports when it runs.
    modules |= {"handlers.ui.page", "handlers.serving.server", "handlers.settings", "adapters.server", "adapters.logs"}
    text = f"import importlib\nfor name in {sorted(modules)}: importlib.import_module(name)"
    done = run(venv, "-c", text, program="python")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "extras"), [(("unpin",), "programs"), (("demo",), "dev,programs"), (("devcluster",), "dev,programs")]
)
def test_a_command_that_needs_an_extra_says_which_in_one_line(
    venv: Path, arguments: tuple[str, ...], extras: str
) -> None:
    done = run(venv, *arguments)
    assert done.returncode == 2
    assert re.fullmatch(
        rf"warmhook\S*(?: \w+)?: no module '\S+' is installed: run pip install 'warmhook\[{extras}\]'\n", done.stderr
    )


def test_the_package_alone_reads_a_cluster_prints_crds_and_completes(venv: Path, tmp_path: Path) -> None:
    with apiserver(tmp_path):
        cluster = {"KUBECONFIG": str(tmp_path / "kubeconfig")}
        status = run(venv, "status", "-A", **cluster)
        kubectl = run(venv, "status", "-A", program="kubectl-warm", **cluster)
    assert "Traceback" not in status.stderr
    assert (status.stdout, status.returncode) == (kubectl.stdout, kubectl.returncode)
    assert status.stdout + status.stderr
    assert run(venv, "crds").stdout.count("kind: CustomResourceDefinition") == 2
    assert "complete" in run(venv, "completion", "bash").stdout
