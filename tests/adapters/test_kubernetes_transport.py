"""The connection to the API server says clearly what is wrong with it, and follows credentials that are replaced."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import socket
import ssl
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from adapters.certificates import Pair, make_pair
from adapters.kubernetes.account import ServiceAccount, in_cluster_config
from adapters.kubernetes.kubeconfig import load_kubeconfig
from adapters.kubernetes.rest_config import RestConfig
from adapters.kubernetes.transport import BadKubeconfig, new_socket, open_pool, open_transport
from tests.real.programs import real_time
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


WITHOUT_ITS_FILE = """
current-context: a
contexts: [{name: a, context: {cluster: a, user: a}}]
clusters: [{name: a, cluster: {server: 'https://127.0.0.1', certificate-authority: missing}}]
users: [{name: a, user: {}}]
"""


@pytest.mark.parametrize(
    "text", ["", "- 1", "{", "kind: Config", "current-context: nope\nkind: Config", WITHOUT_ITS_FILE]
)
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


@real_time
async def test_nobody_listening_is_unreachable(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        path = kubeconfig(tmp_path, f"http://127.0.0.1:{free.getsockname()[1]}")
    async with open_transport(path) as transport:
        with pytest.raises(Unreachable, match="gave no answer"):
            await transport.request("GET", "/version")
        with pytest.raises(Unreachable):
            async with transport.stream("/api/v1/nodes", query={"watch": "1"}):
                pass


@real_time
async def test_an_answer_that_does_not_come_in_time_is_unreachable(tmp_path: Path) -> None:
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


# --- in a Pod ---------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def api_server(folder: Path, pair: Pair, port: int, heard: list[str]) -> AsyncIterator[int]:
    """Answers every request over TLS and remembers its token; on which port."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        heard.extend(line.partition(": ")[2] for line in head.splitlines() if line.lower().startswith("authorization"))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
        writer.close()

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    for name, content in (("tls.crt", pair.certificate), ("tls.key", pair.key)):
        (folder / name).write_bytes(content)
    context.load_cert_chain(folder / "tls.crt", folder / "tls.key")
    async with await asyncio.start_server(answer, "127.0.0.1", port, ssl=context) as server:
        yield server.sockets[0].getsockname()[1]


@real_time
async def test_token_and_authorities_that_are_replaced_are_used_without_a_restart_and_without_a_proxy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    account, seconds, heard = tmp_path / "account", [0.0], list[str]()
    account.mkdir()
    first, second = (make_pair(["127.0.0.1"], datetime.now(UTC)) for _ in range(2))
    (account / "token").write_text("first")
    (account / "ca.crt").write_bytes(first.authority)
    async with api_server(tmp_path, first, 0, heard) as port:
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(port))
        transport = open_transport(None, service_account=account, monotonic=lambda: seconds[0])
        opened = await transport.__aenter__()
        assert (await opened.request("GET", "/version")).status == 200
    try:
        async with api_server(tmp_path, second, port, heard):
            with pytest.raises(Unreachable):
                await opened.request("GET", "/version")
            (account / "token").write_text("second\n")
            (account / "ca.crt").write_bytes(first.authority + second.authority)
            seconds[0] += 10
            assert (await opened.request("GET", "/version")).status == 200
            # As while the kubelet writes.
            (account / "token").write_text("")
            seconds[0] += 10
            assert (await opened.request("GET", "/version")).status == 200
    finally:
        await transport.__aexit__(None, None, None)
    assert heard == ["Bearer first", "Bearer second", "Bearer second"]


def test_files_that_cannot_be_used_leave_what_was_read_before(tmp_path: Path) -> None:
    seconds, trusted = 0.0, list[str]()
    account = ServiceAccount(tmp_path, monotonic=lambda: seconds, trust=trusted.append)
    assert account.token() == ""
    (tmp_path / "token").write_text("one")
    (tmp_path / "ca.crt").write_text("authorities")
    assert account.token() == ""
    seconds += 10
    assert account.token() == "one"
    for content in (b"", b"\xff", None):
        seconds += 10
        for name in ("token", "ca.crt"):
            (tmp_path / name).unlink() if content is None else (tmp_path / name).write_bytes(content)
        assert account.token() == "one"
    assert trusted == ["authorities"]


def test_a_token_that_was_there_at_the_start_is_used_until_there_is_another(tmp_path: Path) -> None:
    environ = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "443"}
    (tmp_path / "ca.crt").write_bytes(make_pair(["10.0.0.1"], datetime.now(UTC)).authority)
    (tmp_path / "token").write_text("\n")
    with pytest.raises(BadKubeconfig, match="it is empty"):
        in_cluster_config(environ, tmp_path, lambda: 0.0)
    (tmp_path / "token").write_text("first")
    config = in_cluster_config(environ, tmp_path, lambda: 0.0)
    (tmp_path / "token").write_text("")
    assert config.authorization() == "Bearer first"


def test_the_kernel_ends_a_connection_whose_other_end_is_gone() -> None:
    with new_socket((socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("127.0.0.1", 1))) as made:
        assert made.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            assert made.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 30_000
            assert made.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 15


@real_time
async def test_credentials_that_cannot_be_read_now_may_be_there_later() -> None:
    def authorization() -> str:
        raise OSError("the token cannot be read")

    async with open_pool(RestConfig("http://127.0.0.1:9", None, authorization), "tests") as transport:
        with pytest.raises(Unreachable, match="the token cannot be read"):
            await transport.request("GET", "/version")
        with pytest.raises(Unreachable, match="the token cannot be read"):
            async with transport.stream("/api/v1/nodes"):
                pass


# --- kubeconfigs ------------------------------------------------------------------------------------------------------


def plain_and_library(folder: Path, cluster: Mapping[str, Any], user: Mapping[str, Any]) -> list[RestConfig]:
    """What a kubeconfig says by itself, and what it says where a second file sends it to the library."""
    path = Path(kubeconfig(folder, "https://127.0.0.1:6443/"))
    config = yaml.safe_load(path.read_text())
    config["clusters"][0]["cluster"] |= cluster
    config["users"][0]["user"] = user
    path.write_text(yaml.safe_dump(config))
    (folder / "second").write_text("apiVersion: v1\nkind: Config\n")
    return [asyncio.run(load_kubeconfig(each)) for each in (str(path), f"{path}:{folder / 'second'}")]


@pytest.mark.parametrize("as_data", [True, False], ids=["data", "files"])
def test_a_plain_kubeconfig_means_what_it_means_to_the_library(tmp_path: Path, as_data: bool) -> None:
    pair = make_pair(["127.0.0.1"], datetime.now(UTC))
    contents = {
        "certificate-authority": pair.authority,
        "client-certificate": pair.certificate,
        "client-key": pair.key,
    }
    values: dict[str, str] = {}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        values |= {f"{name}-data": base64.b64encode(content).decode()} if as_data else {name: name}
    authority = next(name for name in values if name.startswith("certificate-authority"))
    cluster = {authority: values.pop(authority)}
    own, library = plain_and_library(
        tmp_path,
        {**cluster, "tls-server-name": "kubernetes", "proxy-url": "http://proxy:1"},
        {**values, "token": "t0ken"},
    )
    assert own.tls is not None
    assert library.tls is not None
    assert own.tls.get_ca_certs() == library.tls.get_ca_certs()
    for config in (own, library):
        assert (config.host, config.server_name, config.proxy) == (
            "https://127.0.0.1:6443",
            "kubernetes",
            "http://proxy:1",
        )
        assert config.authorization() == "Bearer t0ken"
        assert config.tls is not None
        assert config.tls.verify_mode is ssl.CERT_REQUIRED
        assert [authority["serialNumber"] for authority in config.tls.get_ca_certs()]


def test_an_empty_field_of_a_kubeconfig_means_an_absent_one(tmp_path: Path) -> None:
    pair = make_pair(["127.0.0.1"], datetime.now(UTC))
    (tmp_path / "ca.crt").write_bytes(pair.authority)
    nothing = {"client-certificate-data": "", "client-key-data": "", "token": ""}
    own, library = plain_and_library(tmp_path, {"certificate-authority-data": ""}, nothing)
    assert own.tls is not None
    assert library.tls is not None
    assert own.tls.get_ca_certs() == library.tls.get_ca_certs()
    # As for kubectl, data count before a file only if there are any.
    own, _ = plain_and_library(
        tmp_path,
        {"certificate-authority-data": "", "certificate-authority": "ca.crt"},
        nothing | {"client-certificate": "", "client-key": None},
    )
    assert own.tls is not None
    assert len(own.tls.get_ca_certs()) == 1


def test_a_kubeconfig_that_names_files_needs_no_folder_for_temporary_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = make_pair(["127.0.0.1"], datetime.now(UTC))
    (tmp_path / "ca.crt").write_bytes(pair.authority)
    # As with a root file system that is read-only.
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    own, _ = plain_and_library(tmp_path, {"certificate-authority": "ca.crt"}, {"token": "t0ken"})
    assert own.tls is not None
    assert len(own.tls.get_ca_certs()) == 1


def test_a_token_from_a_file_has_no_newline(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("t0ken\n")
    for config in plain_and_library(tmp_path, {"insecure-skip-tls-verify": True}, {"tokenFile": "token"}):
        assert config.authorization() == "Bearer t0ken"


@pytest.mark.parametrize("user", [{"tokenFile": None}, {"exec": None}, {"auth-provider": {"name": None}}])
def test_what_is_wrong_with_a_kubeconfig_is_said_and_logged_without_its_secrets(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, user: Mapping[str, Any]
) -> None:
    with pytest.raises(BadKubeconfig) as caught:
        plain_and_library(tmp_path, {}, {"username": "me", "password": "hunter2", "client-key-data": "hunter2", **user})
    said = str(caught.value) + caplog.text
    assert "Expected key" in said
    assert "hunter2" not in said


def test_a_kubeconfig_may_turn_verification_off_and_have_no_credentials(tmp_path: Path) -> None:
    for config in plain_and_library(tmp_path, {"insecure-skip-tls-verify": True}, {}):
        assert config.authorization() == ""
        assert config.tls is not None
        assert (config.tls.verify_mode, config.tls.check_hostname) == (ssl.CERT_NONE, False)


def test_a_plugin_of_a_kubeconfig_is_asked_for_the_token(tmp_path: Path) -> None:
    credential = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "kind": "ExecCredential",
        "status": {"token": "of-the-plugin"},
    }
    path = Path(kubeconfig(tmp_path, "http://127.0.0.1:9"))
    config = yaml.safe_load(path.read_text())
    plugin = {"apiVersion": credential["apiVersion"], "command": "echo", "args": [json.dumps(credential)]}
    config["users"][0]["user"] = {"exec": plugin}
    path.write_text(yaml.safe_dump(config))
    assert asyncio.run(load_kubeconfig(str(path))).authorization() == "Bearer of-the-plugin"


# --- contexts ---------------------------------------------------------------------------------------------------------


TWO_CONTEXTS = """
apiVersion: v1
kind: Config
current-context: here
contexts:
- {name: here, context: {cluster: here, user: me, namespace: shop}}
- {name: there, context: {cluster: there, user: me}}
clusters:
- {name: here, cluster: {server: 'http://127.0.0.1:1'}}
- {name: there, cluster: {server: 'http://127.0.0.1:2'}}
users: [{name: me, user: {token: t0ken}}]
"""


def both_ways(folder: Path, text: str, context: str | None) -> list[RestConfig]:
    """What the file says by itself, and what it says where a second file sends it to the library."""
    (folder / "config").write_text(text)
    (folder / "second").write_text("apiVersion: v1\nkind: Config\n")
    paths = (str(folder / "config"), f"{folder / 'config'}:{folder / 'second'}")
    return [asyncio.run(load_kubeconfig(path, context)) for path in paths]


@pytest.mark.parametrize(
    ("context", "expected"),
    [
        (None, ("http://127.0.0.1:1", "shop", "here")),
        ("here", ("http://127.0.0.1:1", "shop", "here")),
        ("there", ("http://127.0.0.1:2", "default", "there")),
    ],
)
def test_a_context_decides_on_server_and_namespace_and_is_named(
    tmp_path: Path, context: str | None, expected: tuple[str, str, str]
) -> None:
    host, namespace, name = expected
    for config in both_ways(tmp_path, TWO_CONTEXTS, context):
        assert (config.host, config.namespace, config.authorization()) == (host, namespace, "Bearer t0ken")
        assert config.origin.startswith(f"context {name!r} of {tmp_path / 'config'}")


def test_a_context_that_is_named_needs_no_current_one(tmp_path: Path) -> None:
    for config in both_ways(tmp_path, TWO_CONTEXTS.replace("current-context: here", ""), "there"):
        assert config.host == "http://127.0.0.1:2"


def test_a_context_that_does_not_exist_is_named_with_its_file(tmp_path: Path) -> None:
    with pytest.raises(BadKubeconfig, match="context 'nowhere'") as caught:
        both_ways(tmp_path, TWO_CONTEXTS, "nowhere")
    assert str(tmp_path / "config") in str(caught.value)


def test_a_pod_is_at_home_in_its_own_namespace(tmp_path: Path) -> None:
    environ = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "443"}
    (tmp_path / "ca.crt").write_bytes(make_pair(["10.0.0.1"], datetime.now(UTC)).authority)
    (tmp_path / "token").write_text("t0ken")
    assert in_cluster_config(environ, tmp_path, lambda: 0.0).namespace == "default"
    (tmp_path / "namespace").write_text("tools")
    assert in_cluster_config(environ, tmp_path, lambda: 0.0).namespace == "tools"
