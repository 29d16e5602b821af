"""`python -m nodeagent` starts lean, stops in order and says what is wrong with its settings."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

KUBECONFIG = """\
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "http://127.0.0.1:1"}}]
users: [{name: u, user: {}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
"""


def start(tmp_path: Path, **environ: str) -> subprocess.Popen[str]:
    (tmp_path / "kubeconfig").write_text(KUBECONFIG)
    settings = {
        "PATH": os.environ["PATH"],
        "NODE_NAME": "node-1",
        "KUBECONFIG": str(tmp_path / "kubeconfig"),
        "CONTAINER_RUNTIME_ENDPOINT": f"unix://{tmp_path}/none",
        "WARMHOOK_STATE_DIR": str(tmp_path / "state"),
        "WARMHOOK_METRICS_PORT": "0",
    }
    return subprocess.Popen(
        [sys.executable, "-m", "nodeagent"],
        env=settings | environ,
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.e2e
def test_a_metrics_port_in_use_is_logged_and_the_agent_works(tmp_path: Path) -> None:
    with (
        socket.create_server(("0.0.0.0", 0)) as taken,
        start(tmp_path, WARMHOOK_METRICS_PORT=str(taken.getsockname()[1])) as program,
    ):
        assert program.stdout is not None
        seen, deadline = "", time.monotonic() + 30
        while ("runtime-unreachable" not in seen or "metrics-port-in-use" not in seen) and time.monotonic() < deadline:
            seen += program.stdout.readline()
        program.send_signal(signal.SIGTERM)
        out, err = program.communicate(timeout=30)
    assert (program.returncode, err) == (0, "")
    assert seen.count("metrics-port-in-use") == 1
    assert "agent-stopped" in seen + out


@pytest.mark.e2e
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_agent_ends_with_0_although_neither_runtime_nor_api_server_answers(
    tmp_path: Path, number: int
) -> None:
    with start(tmp_path) as program:
        assert program.stdout is not None
        seen = ""
        deadline = time.monotonic() + 30
        while ("runtime-unreachable" not in seen or "api-server-trouble" not in seen) and time.monotonic() < deadline:
            seen += program.stdout.readline()
        program.send_signal(number)
        out, err = program.communicate(timeout=30)
    assert (program.returncode, err) == (0, "")
    assert "agent-stopped" in seen + out
