"""Credential providers run as programs: real ones, as scripts."""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path

import pytest

from adapters.credential_providers import RunFailed, check_programs, load_providers, run_program
from tests.real.programs import real_time
from warmhook.credential_providers import BadProviders

CONFIG = """\
apiVersion: kubelet.config.k8s.io/v1
kind: CredentialProviderConfig
providers:
- name: plugin
  matchImages: ["registry.example.com"]
  defaultCacheDuration: 10m
  apiVersion: credentialprovider.kubelet.k8s.io/v1
  env: [{name: TOKEN, value: correct-horse-battery}]
"""


def script(folder: Path, text: str) -> str:
    """A program that runs `text` as a shell does."""
    path = folder / "plugin"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


@real_time
async def test_a_program_gets_arguments_environment_and_request_as_they_are(tmp_path: Path) -> None:
    program = script(tmp_path, 'printf "%s|" "$@"; env; pwd; cat')
    output = await run_program([program, "a b", "$(id)"], {"TOKEN": "x y"}, b'{"image": "`id`"}')
    lines = output.decode().splitlines()
    assert lines[0].startswith("a b|$(id)|")
    names = {line.rpartition("|")[2].partition("=")[0] for line in lines if "=" in line}
    assert names <= {"TOKEN", "PWD", "_", "SHLVL"}
    assert lines[-2:] == ["/", '{"image": "`id`"}']


@pytest.mark.parametrize(
    ("text", "said"),
    [("echo secret; echo secret >&2; exit 3", "exit code 3"), ("kill -9 $$", "exit code -9")],
)
@real_time
async def test_a_program_that_fails_is_not_quoted(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(RunFailed, match=said) as raised:
        await run_program([script(tmp_path, text)], dict(os.environ), b"{}")
    assert "secret" not in str(raised.value)


@real_time
async def test_a_program_that_cannot_start_has_failed(tmp_path: Path) -> None:
    path = tmp_path / "plugin"
    path.write_bytes(b"\x7fELF nothing")
    path.chmod(0o755)
    for program in (path, tmp_path / "absent"):
        with pytest.raises(RunFailed, match="does not start"):
            await run_program([str(program)], {}, b"{}")


@real_time
async def test_a_program_that_reads_nothing_may_answer(tmp_path: Path) -> None:
    assert await run_program([script(tmp_path, "exec <&-; echo ok")], dict(os.environ), b"x" * 500_000) == b"ok\n"


@pytest.mark.slow
@real_time
async def test_a_program_that_writes_for_ever_is_ended(tmp_path: Path) -> None:
    program = script(tmp_path, f"echo $$ > {tmp_path}/pid; exec cat /dev/zero")
    with pytest.raises(RunFailed, match="more than"):
        await run_program([program], dict(os.environ), b"{}")
    assert not _runs(tmp_path / "pid")


@pytest.mark.slow
@real_time
async def test_a_program_that_hangs_is_ended_with_what_it_started(tmp_path: Path) -> None:
    program = script(tmp_path, f"sleep 1000 & echo $! > {tmp_path}/pid; wait")
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            await run_program([program], dict(os.environ), b"{}")
    assert time.monotonic() - began < 5
    assert not _runs(tmp_path / "pid")


def test_the_configuration_is_a_file_or_a_folder(tmp_path: Path) -> None:
    (tmp_path / "1.yaml").write_text(CONFIG)
    (tmp_path / "README").write_text("no configuration")
    assert [provider.name for provider in load_providers(tmp_path)] == ["plugin"]
    assert load_providers(tmp_path / "1.yaml") == load_providers(tmp_path)
    (tmp_path / "2.json").write_text(json.dumps({"kind": "Secret"}))
    with pytest.raises(BadProviders, match=r"2\.json is no CredentialProviderConfig"):
        load_providers(tmp_path)


def test_a_file_that_cannot_be_read_is_named_and_not_quoted(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    with pytest.raises(BadProviders, match=r"config.yaml cannot be read: No such file"):
        load_providers(config)
    config.write_text(CONFIG + "  env: again\n")
    with pytest.raises(BadProviders, match=r"config.yaml, line \d+, is no YAML") as raised:
        load_providers(config)
    assert "correct-horse" not in str(raised.value)
    config.write_bytes(b"\xff\xfe")
    with pytest.raises(BadProviders, match="is no YAML"):
        load_providers(config)


def test_each_provider_needs_a_program(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(CONFIG)
    providers = load_providers(tmp_path / "config.yaml")
    with pytest.raises(BadProviders, match="plugin is not a program"):
        check_programs(providers, tmp_path)
    (tmp_path / "plugin").write_text("no program")
    with pytest.raises(BadProviders, match="plugin is not a program"):
        check_programs(providers, tmp_path)
    script(tmp_path, "exit")
    check_programs(providers, tmp_path)


def _runs(pid: Path) -> bool:
    """Whether the process whose number is in the file still runs."""
    try:
        state = Path(f"/proc/{pid.read_text().strip()}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state not in "ZX"
