"""The API server as a process can be killed, restarted and stopped, and reports a port that is in use."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from pathlib import Path

import pytest

from adapters.kubernetes.transport import open_transport
from tests.support.apiserver import apiserver
from warmhook.ports import Stream, Transport, Unreachable

pytestmark = pytest.mark.e2e

CONFIGMAPS = "/api/v1/namespaces/default/configmaps"
JSON = {"content-type": "application/json"}


def served(folder: Path) -> AbstractContextManager[subprocess.Popen[bytes]]:
    """A server whose cluster is kept in `folder`."""
    return apiserver(folder, "--data", str(folder / "cluster"))


def connected(folder: Path) -> AbstractAsyncContextManager[Transport]:
    return open_transport(str(folder / "kubeconfig"))


def watched(transport: Transport) -> AbstractAsyncContextManager[Stream]:
    return transport.stream(CONFIGMAPS, query={"watch": "1", "timeoutSeconds": "30"})


def test_a_killed_server_comes_back_with_its_cluster(tmp_path: Path) -> None:
    async def create(name: str) -> int:
        async with connected(tmp_path) as transport:
            answer = await transport.request("POST", CONFIGMAPS, headers=JSON, body={"metadata": {"name": name}})
            assert answer.status == 201
            return int(json.loads(answer.body)["metadata"]["resourceVersion"])

    async def names() -> list[str]:
        async with connected(tmp_path) as transport:
            items = json.loads((await transport.request("GET", CONFIGMAPS)).body)["items"]
            return [item["metadata"]["name"] for item in items]

    with served(tmp_path) as process:
        before = asyncio.run(create("a"))
        process.send_signal(signal.SIGKILL)
        process.wait(10)
    with served(tmp_path):
        assert asyncio.run(names()) == ["a"]
        assert asyncio.run(create("b")) > before


def test_an_open_watch_breaks_when_the_server_is_killed(tmp_path: Path) -> None:
    async def case(process: subprocess.Popen[bytes]) -> None:
        async with connected(tmp_path) as transport, watched(transport) as stream:
            process.send_signal(signal.SIGKILL)
            with pytest.raises(Unreachable):
                _ = [line async for line in stream.lines]

    with served(tmp_path) as process:
        asyncio.run(asyncio.wait_for(case(process), 20))


def test_sigterm_ends_open_watches_and_the_process(tmp_path: Path) -> None:
    async def case(process: subprocess.Popen[bytes]) -> list[bytes]:
        async with connected(tmp_path) as transport, watched(transport) as stream:
            process.send_signal(signal.SIGTERM)
            return [line async for line in stream.lines]

    with served(tmp_path) as process:
        assert asyncio.run(asyncio.wait_for(case(process), 20)) == []
        assert process.wait(10) == 0


def test_garbage_is_collected_by_itself(tmp_path: Path) -> None:
    async def case() -> None:
        async with connected(tmp_path) as transport:
            lost = {"apiVersion": "v1", "kind": "Node", "name": "gone", "uid": "none"}
            body = {"metadata": {"name": "orphan", "ownerReferences": [lost]}}
            made = await transport.request("POST", CONFIGMAPS, headers=JSON, body=body)
            assert made.status == 201
            async with watched(transport) as stream:
                async for line in stream.lines:
                    if json.loads(line)["type"] == "DELETED":
                        return
        raise AssertionError("the orphan is still there")

    with served(tmp_path):
        asyncio.run(asyncio.wait_for(case(), 30))


def test_a_port_in_use_is_reported_in_one_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "devcluster.apiserver", "--port", port]
        done = subprocess.run(command, capture_output=True, timeout=30, check=False, text=True)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "choose another port" in done.stderr
