"""Does the API server survive as a process: killed, restarted, stopped, started wrongly?"""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from adapters.kubernetes.transport import open_transport
from warmhook.ports import Transport, Unreachable

pytestmark = pytest.mark.e2e

CONFIGMAPS = "/api/v1/namespaces/default/configmaps"
JSON = {"content-type": "application/json"}


@contextmanager
def served(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A server whose cluster is kept in `folder`."""
    command = [sys.executable, "-m", "devcluster.apiserver", "--port", "0"]
    command += ["--kubeconfig", str(folder / "kubeconfig"), "--data", str(folder / "cluster")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            assert b"ready" in process.stdout.readline()
            yield process
        finally:
            process.kill()


@asynccontextmanager
async def connected(folder: Path) -> AsyncIterator[Transport]:
    async with open_transport(str(folder / "kubeconfig")) as transport:
        yield transport


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
        async with (
            connected(tmp_path) as transport,
            transport.stream(CONFIGMAPS, query={"watch": "1", "timeoutSeconds": "30"}) as stream,
        ):
            process.send_signal(signal.SIGKILL)
            with pytest.raises(Unreachable):
                _ = [line async for line in stream.lines]

    with served(tmp_path) as process:
        asyncio.run(asyncio.wait_for(case(process), 20))


def test_sigterm_ends_open_watches_and_the_process(tmp_path: Path) -> None:
    async def case(process: subprocess.Popen[bytes]) -> list[bytes]:
        async with (
            connected(tmp_path) as transport,
            transport.stream(CONFIGMAPS, query={"watch": "1", "timeoutSeconds": "30"}) as stream,
        ):
            process.send_signal(signal.SIGTERM)
            return [line async for line in stream.lines]

    with served(tmp_path) as process:
        assert asyncio.run(asyncio.wait_for(case(process), 20)) == []
        assert process.wait(10) == 0


def test_garbage_is_collected_without_being_asked(tmp_path: Path) -> None:
    async def case() -> None:
        async with connected(tmp_path) as transport:
            lost = {"apiVersion": "v1", "kind": "Node", "name": "gone", "uid": "none"}
            body = {"metadata": {"name": "orphan", "ownerReferences": [lost]}}
            made = await transport.request("POST", CONFIGMAPS, headers=JSON, body=body)
            assert made.status == 201
            query = {"watch": "1", "timeoutSeconds": "20"}
            async with transport.stream(CONFIGMAPS, query=query) as stream:
                async for line in stream.lines:
                    if json.loads(line)["type"] == "DELETED":
                        return
        raise AssertionError("the orphan is still there")

    with served(tmp_path):
        asyncio.run(asyncio.wait_for(case(), 30))


def test_a_port_in_use_is_said_in_one_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "devcluster.apiserver", "--port", port]
        done = subprocess.run(command, capture_output=True, timeout=30, check=False, text=True)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "choose another port" in done.stderr
