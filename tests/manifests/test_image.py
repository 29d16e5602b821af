"""Every program runs from what the Dockerfile leaves in the image, and nothing of the demo is there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from cli.crds import crd_files
from cli.demo_run import scenario
from devcluster.cluster import Commands
from tests.support.image import build_venv, compressed_mib, site_packages

pytestmark = pytest.mark.e2e

_AS_IN_THE_IMAGE = {"PYTHONDONTWRITEBYTECODE": "1"}


@pytest.fixture(scope="module")
def venv() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="wh-image"))
    yield build_venv(folder)
    shutil.rmtree(folder)


def run(venv: Path, program: str, *arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
    """What a program of the venv prints, started elsewhere than in this checkout and without its environment."""
    return subprocess.run(
        (venv / "bin" / program, *arguments),
        input=given,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=venv,
        env={"HOME": "/"} | _AS_IN_THE_IMAGE,
    )


def test_a_pushed_image_becomes_warm_with_the_programs_of_the_image(
    venv: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # -P: not from the working directory, which is this checkout.
    python = (str(venv / "bin" / "python"), "-P", "-m")
    commands = Commands(web=(*python, "handlers", "--watch"), agent=(*python, "nodeagent"))
    monkeypatch.setattr(scenario, "program_commands", lambda: commands)
    monkeypatch.setattr(os, "environ", os.environ | _AS_IN_THE_IMAGE)

    status = scenario.run_demo(scenario.Demonstration(nodes=1, as_json=True, timeout_seconds=60))

    assert (status, json.loads(capsys.readouterr().out)["ok"]) == (0, True)


@pytest.mark.parametrize("module", ["handlers", "handlers.watch", "nodeagent"])
def test_each_program_of_the_image_reads_its_settings(venv: Path, module: str) -> None:
    done = run(venv, "python", "-m", module)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr


def test_every_module_of_the_image_can_be_imported_but_those_of_the_demo(venv: Path) -> None:
    files = [
        file.relative_to(site_packages(venv))
        for package in ("warmhook", "adapters", "handlers", "nodeagent", "cli")
        for file in (site_packages(venv) / package).rglob("*.py")
    ]
    modules = [".".join(file.with_suffix("").parts).removesuffix(".__init__") for file in files]
    assert len(modules) > 100
    done = run(venv, "python", "-c", f"import importlib\nfor name in {modules}: importlib.import_module(name)")
    assert (done.returncode, done.stderr) == (0, "")


def test_the_image_reads_a_kubeconfig_whose_token_a_plugin_gives(venv: Path) -> None:
    version = "client.authentication.k8s.io/v1"
    credential = {"apiVersion": version, "kind": "ExecCredential", "status": {"token": "of-the-plugin"}}
    plugin = {"apiVersion": version, "command": "/bin/echo", "args": [json.dumps(credential)]}
    config = {
        "current-context": "x",
        "clusters": [{"name": "x", "cluster": {"server": "https://127.0.0.1:1"}}],
        "users": [{"name": "x", "user": {"exec": plugin}}],
        "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
    }
    (venv / "kubeconfig").write_text(yaml.safe_dump(config))
    program = (
        "import asyncio\n"
        "from adapters.kubernetes.kubeconfig import load_kubeconfig\n"
        "print(asyncio.run(load_kubeconfig('kubeconfig')).authorization())"
    )
    done = run(venv, "python", "-c", program)
    assert (done.stdout, done.returncode) == ("Bearer of-the-plugin\n", 0), done.stderr


def test_the_command_of_the_image_prints_crds_and_reads_deliveries(venv: Path) -> None:
    assert run(venv, "warmhook", "crds").stdout == "---\n".join(crd_files().values())
    body = {"push_data": {"tag": "v1", "pushed_at": 1700000000}, "repository": {"repo_name": "team/app"}}
    parsed = run(venv, "warmhook", "parse", "dockerhub", given=json.dumps(body))
    assert parsed.stdout == "docker.io/team/app:v1\n", parsed.stderr


@pytest.mark.parametrize("command", ["demo", "devcluster"])
def test_the_image_holds_no_demo_and_says_where_it_is(venv: Path, command: str) -> None:
    done = run(venv, "warmhook", command)
    assert done.returncode == 2
    assert done.stderr.endswith(" is installed: run pip install 'warmhook[dev,programs]'\n")
    packages = site_packages(venv)
    there = {path.name for folder in (packages, packages / "cli") for path in folder.iterdir()}
    assert not there & {"devcluster", "demo_run", "tests", "rich", "celpy", "pip", "setuptools"}


def test_compiled_files_of_the_image_do_not_depend_on_times(venv: Path) -> None:
    compiled = list(site_packages(venv).rglob("*.pyc"))
    assert len(compiled) > 500
    # https://peps.python.org/pep-0552: a hash of the source, which is not compared at each start.
    assert {int.from_bytes(file.read_bytes()[4:8], "little") for file in compiled} == {0b01}
    assert list(site_packages(venv).glob("handlers/ui/**/base.html"))


def test_the_layer_of_the_image_has_at_most_30_mib(venv: Path) -> None:
    assert compressed_mib(venv) <= 30
