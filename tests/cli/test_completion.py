"""Shells complete commands, options, and names from the cluster; without a cluster silently nothing."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from cli.completion import kubectl_complete
from cli.main import warmhook
from devcluster.apiserver.__main__ import kubeconfig


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_calls_the_program_for_what_it_completes(shell: str) -> None:
    script = CliRunner().invoke(warmhook, ["completion", shell]).stdout
    assert "_WARMHOOK_COMPLETE" in script
    assert "warmhook" in script


def test_another_shell_is_refused() -> None:
    assert CliRunner().invoke(warmhook, ["completion", "tcsh"]).exit_code == 2


def completed(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    """What kubectl gets for these words, the last of which is begun."""
    assert kubectl_complete(words) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out.splitlines()


def test_kubectl_gets_commands_with_their_help_and_that_no_files_follow(capsys: pytest.CaptureFixture[str]) -> None:
    assert completed(capsys, "sta") == ["status\tShow how far images have come on nodes.", ":4"]
    assert completed(capsys, "status", "--out") == ["--output\tThe format; wide adds columns.", ":4"]
    assert completed(capsys, "status", "-o", "") == ["table", "wide", "json", "yaml", ":4"]
    assert completed(capsys, "push", "a", "--secret-file", "") == [":0"]


@pytest.mark.parametrize("config", ["absent", "silent", pytest.param("broken", marks=pytest.mark.slow)])
def test_without_a_cluster_nothing_is_completed_and_nothing_said(
    config: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        if config != "absent":
            text = kubeconfig(silent.getsockname()[1]) if config == "silent" else "{"
            (tmp_path / "config").write_text(text)
        monkeypatch.setattr("cli.completion._SECONDS", 0.05)
        assert completed(capsys, "status", "") == [":4"]


@pytest.mark.slow
def test_bash_completes_a_command_by_the_script() -> None:
    script = CliRunner().invoke(warmhook, ["completion", "bash"]).stdout
    words = 'COMP_WORDS=(warmhook sta); COMP_CWORD=1; _warmhook_completion warmhook; echo "${COMPREPLY[@]}"'
    program = Path(sys.executable).parent
    done = subprocess.run(
        ["/bin/bash", "--norc", "-c", f"complete() {{ :; }}\n{script}\n{words}"],
        env={"PATH": f"{program}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["status"]
