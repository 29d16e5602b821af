"""Does the connection to the API server say clearly what is wrong with it?"""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest
import yaml

from adapters.kubernetes.transport import BadKubeconfig, open_transport
from warmhook.ports import Unreachable


def kubeconfig(folder: Path, server: str) -> str:
    path = folder / "kubeconfig"
    named = {"name": "x"}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{**named, "cluster": {"server": server}}],
        "users": [{**named, "user": {"token": "t0ken"}}],
        "contexts": [{**named, "context": {"cluster": "x", "user": "x"}}],
        "current-context": "x",
    }
    path.write_text(yaml.safe_dump(config))
    return str(path)


async def opened(path: str | None) -> None:
    async with open_transport(path):
        pass


@pytest.mark.parametrize("text", ["", "- 1", "{", "kind: Config", "current-context: nope\nkind: Config"])
def test_a_bad_kubeconfig_is_said_in_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(text)
    with pytest.raises(BadKubeconfig, match="check it with kubectl") as caught:
        asyncio.run(opened(str(path)))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_kubeconfig_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(BadKubeconfig, match="set KUBECONFIG"):
        asyncio.run(opened(str(tmp_path / "none")))


def test_a_pod_without_a_service_account_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "1")
    with pytest.raises(BadKubeconfig, match="token file"):
        asyncio.run(opened(None))


def test_nobody_listening_is_unreachable(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        path = kubeconfig(tmp_path, f"http://127.0.0.1:{free.getsockname()[1]}")

    async def case() -> None:
        async with open_transport(path) as transport:
            with pytest.raises(Unreachable, match="gave no answer"):
                await transport.request("GET", "/version")
            with pytest.raises(Unreachable):
                async with transport.stream("/api/v1/nodes", query={"watch": "1"}):
                    pass

    asyncio.run(case())


def test_an_answer_that_does_not_come_in_time_is_unreachable(tmp_path: Path) -> None:
    async def case() -> None:
        gone = asyncio.Event()

        async def silent(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await gone.wait()
            writer.close()

        server = await asyncio.start_server(silent, "127.0.0.1", 0)
        path = kubeconfig(tmp_path, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        async with server, open_transport(path) as transport:
            with pytest.raises(Unreachable, match=r"gave no answer within 0\.1 seconds$"):
                await transport.request("GET", "/version", timeout_seconds=0.1)
            gone.set()

    asyncio.run(case())


def test_requests_carry_token_content_type_and_query(tmp_path: Path) -> None:
    async def case() -> bytes:
        heard: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            heard.set_result(await reader.readuntil(b"\r\n\r\n"))
            writer.write(b"HTTP/1.1 200 OK\r\nX-One: 1\r\nContent-Length: 2\r\n\r\n{}")
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        path = kubeconfig(tmp_path, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        async with server, open_transport(path, user_agent="tests") as transport:
            answered = await transport.request(
                "PATCH",
                "/api/v1/nodes/n1",
                query={"labelSelector": "a in (b,c)"},
                headers={"content-type": "application/merge-patch+json", "accept": "application/json;as=Table"},
                body={},
            )
            assert (answered.status, answered.headers["x-one"], answered.body) == (200, "1", b"{}")
        return await heard

    head = asyncio.run(case()).decode().lower()
    assert "labelselector=a+in+(b,c)" in head
    assert "authorization: bearer t0ken" in head
    assert "content-type: application/merge-patch+json" in head
    assert "accept: application/json;as=table" in head
    assert "user-agent: tests" in head
