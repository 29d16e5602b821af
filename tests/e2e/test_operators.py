"""A program that cannot start or cannot reach something says in one line what to check."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from devcluster.apiserver.__main__ import kubeconfig
from tests.real.programs import eventually, free_port, real_time, running

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
WEB, WATCH, AGENT = ("handlers", "--watch"), ("handlers.watch",), ("nodeagent",)
PLANTED = "planted-hunter2"


def settings(folder: Path) -> dict[str, str]:
    """Settings that could be used, of a cluster and a runtime that are out of reach."""
    (folder / "kubeconfig").write_text(kubeconfig(free_port()))
    return {
        "PATH": "/usr/bin:/bin",
        "PORT": str(free_port()),
        "KUBECONFIG": str(folder / "kubeconfig"),
        "NODE_NAME": "node-1",
        "CONTAINER_RUNTIME_ENDPOINT": f"unix://{folder}/none.sock",
        "WARMHOOK_STATE_DIR": str(folder / "state"),
        "WARMHOOK_METRICS_PORT": "0",
        "WARMHOOK_ALLOW_LOCAL_REGISTRIES": "true",
        "WARMHOOK_MIN_FREE_PERCENT": "0",
    }


def refused(program: tuple[str, ...], environ: Mapping[str, str]) -> str:
    """The one line with which the program ends at once, with exit code 2."""
    done = subprocess.run(
        [sys.executable, "-m", *program],
        cwd=ROOT,
        env=dict(environ),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 2, done
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    return line


@pytest.mark.parametrize(
    ("program", "name", "value", "says"),
    [
        (WEB, "PORT", "http", "PORT must be a whole number from 1 to 65535, not 'http'"),
        (WEB, "WARMHOOK_SERVE", "webhook", "webhooks, not 'webhook'"),
        (WEB, "WARMHOOK_CONFIG", "/nowhere", "WARMHOOK_CONFIG: cannot read /nowhere: No such file or directory"),
        (WEB, "KUBECONFIG", "/nowhere", "no kubeconfig at '/nowhere': set KUBECONFIG to the file of your cluster"),
        (WATCH, "WARMHOOK_SYNC_SECONDS", "0", "WARMHOOK_SYNC_SECONDS must be a whole number from 1 to 86400, not '0'"),
        (AGENT, "NODE_NAME", "", "NODE_NAME is not set, and there is no default"),
        (AGENT, "CONTAINER_RUNTIME_ENDPOINT", "tcp://h:1", "must be like unix:///run/runtime.sock, not 'tcp://h:1'"),
    ],
    ids=lambda value: value if isinstance(value, str) and value.isupper() else "",
)
def test_a_bad_setting_is_named_with_the_form_it_should_have(
    folder: Path, program: tuple[str, ...], name: str, value: str, says: str
) -> None:
    assert refused(program, settings(folder) | {name: value}).endswith(says)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("sources: [{name: a", "is no YAML: line 1, column 19: expected ',' or '}', but got '<stream end>'"),
        ("- name: harbor", "the file: must be a mapping of keys to values"),
        ("sources: {name: harbor}", "sources: must be a list"),
        ("sources: [{kind: harbor}]", "sources[0].name: missing"),
        (
            "sources: [{name: a, kind: harbor, registryhost: h}]",
            "registryhost: no such key; did you mean registryHost?",
        ),
        (f"sources: [{{name: a, kind: harbor, secret: {PLANTED}}}]", "must be {file: PATH} or {env: NAME}, never the"),
        ("sources: [{name: a, kind: harbour, insecure: true}]", "sources[0] (a): kind: 'harbour' is none of acr, "),
        ("sources: [{name: a, kind: harbor, registryHost: h.example.com}]", "(a): secret: missing; say insecure: true"),
        ("sources: [{name: a, kind: harbor, insecure: true}]", "(a): allowedHosts: missing; name the registry hosts"),
        (
            "sources: [{name: a, kind: harbor, registryHost: h.example.com, secret: {env: NOPE}}]",
            "sources[0] (a): secret.env: NOPE is not set, or empty",
        ),
    ],
    ids=range(10),
)
def test_a_bad_configuration_file_is_named_with_the_key(folder: Path, text: str, says: str) -> None:
    file = folder / "config.yaml"
    file.write_text(text)
    line = refused(WEB, settings(folder) | {"WARMHOOK_CONFIG": str(file)})
    assert says in line
    assert str(file) in line
    assert PLANTED not in line


def test_a_password_in_the_url_of_the_api_server_is_refused_and_not_shown(folder: Path) -> None:
    environ = settings(folder)
    file = folder / "kubeconfig"
    file.write_text(file.read_text().replace("http://", f"http://robot:{PLANTED}@"))
    line = refused(AGENT, environ)
    assert "put it, and the password, under users" in line
    assert PLANTED not in line


def test_a_port_in_use_is_named(folder: Path) -> None:
    with socket.create_server(("0.0.0.0", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert refused(WEB, settings(folder) | {"PORT": port}) == (
            f"warmhook web: PORT {port} cannot be opened: Address already in use"
        )


@pytest.mark.parametrize(
    ("program", "troubles"),
    [
        (WEB, {"api-server-unreachable"}),
        (WATCH, {"api-server-unreachable"}),
        (AGENT, {"api-server-trouble", "runtime-unreachable"}),
    ],
    ids=["web", "watch", "agent"],
)
@real_time
async def test_what_is_out_of_reach_is_said_once_and_waited_for(
    folder: Path, program: tuple[str, ...], troubles: set[str]
) -> None:
    log = folder / "log"

    def told() -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        return [line for line in lines if line["level"] != "info"]

    (folder / "token").write_text("the token of events")
    environ = settings(folder) | {"WARMHOOK_EVENTS_TOKEN_FILE": str(folder / "token")}
    asked = 0

    async def refuse(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        writer.close()

    # An API server that hangs up each time: its callers can be counted.
    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    (folder / "kubeconfig").write_text(kubeconfig(server.sockets[0].getsockname()[1]))
    async with server, running(sys.executable, "-m", *program, log=log, env=environ) as process:
        await eventually(lambda: asked >= 4 and len(told()) >= len(troubles), what="it goes on asking", seconds=40)
        assert process.returncode is None
        assert sorted(line["event"] for line in told()) == sorted(troubles), log.read_text()
        assert all(line["hint"] for line in told())
        assert "Traceback" not in log.read_text()
