"""Every command starts, or says in one line why it cannot."""

from __future__ import annotations

import re
import socket
import sys
from pathlib import Path

import pytest

from cli.main import main, warmhook
from warmhook import __version__


def test_says_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"warmhook {__version__}\n"


def test_has_these_commands() -> None:
    expected = "completion crds demo devcluster diff doctor explain parse plan push status ui unpin"
    assert sorted(warmhook.commands) == expected.split()


@pytest.mark.parametrize("command", sorted(warmhook.commands))
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    assert f"Usage: warmhook {command}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["brew"], "No such command 'brew'"),
        (["demo", "--nodes", "0"], "--nodes"),
        (["demo", "--runtime", "docker"], "'embedded', 'containerd'"),
        (["demo", "--stop-agent", "node-9"], "nodes are node-1 to node-3"),
        (["demo", "--peers", "--runtime", "embedded"], "the embedded runtime has no content store; nodes get images"),
        (["devcluster", "--port", "http"], "--port"),
        (["devcluster", "--kubeconfig", "/nowhere/config"], "name another"),
        (["completion"], "Choose from: bash, zsh, fish (see"),
        (["status", "-n", ".."], "'..' is no name of a namespace"),
        (["diff", "-n", "shop/../team"], "is no name of a namespace"),
        (["doctor", "--system-namespace", ".."], "'..' is no name of a namespace"),
        (["explain", "web", "node-1", "--agents-namespace", "../team"], "is no name of a namespace"),
        (["crds", "--output-dir", "/dev/null/crds"], "name a folder that can be written"),
    ],
)
def test_a_call_that_cannot_work_gets_one_line_and_status_2(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert words in shown.err
    assert shown.err.count("\n") == 1


@pytest.mark.parametrize("command", ["demo", "devcluster"])
@pytest.mark.parametrize("package", ["devcluster", "rich"])
def test_a_command_of_the_dev_extra_says_what_to_install(
    command: str, package: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == package or name.startswith("cli.demo_run")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)

    assert main([command]) == 2
    assert re.fullmatch(
        rf"warmhook: no module '{package}[.\w]*' is installed: run pip install 'warmhook\[dev,programs\]'\n",
        capsys.readouterr().err,
    )


def test_a_port_that_is_taken_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["devcluster", "--port", str(port)]) == 2
    assert f"--port {port}: Address already in use; choose another" in capsys.readouterr().err


def test_a_kubeconfig_that_exists_is_never_written_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    precious = tmp_path / "config"
    precious.write_text("the way to production")

    assert main(["devcluster", "--kubeconfig", str(precious)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert precious.read_text() == "the way to production"


def test_a_machine_without_containerd_is_told_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    assert main(["demo", "--runtime", "containerd"]) == 2
    assert "containerd is not installed; leave the option out" in capsys.readouterr().err
    assert main(["demo", "--peers"]) == 2
    assert "--peers: containerd is not installed; nodes get images from each other" in capsys.readouterr().err
