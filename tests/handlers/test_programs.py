"""The programs start fast, find the API server and stop cleanly; tests/wire has their words for wrong settings."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog

from adapters.kubernetes.client import Kubernetes
from adapters.kubernetes.readiness import wait_for_api_server
from handlers.event_sink import Refused, RetryLater, open_event_sink, raise_for_status
from handlers.settings import Settings, read_settings
from tests.handlers.world import HOST, START, World, in_world, logged, status
from tests.real.programs import free_port, real_time
from warmhook.events import sync_event
from warmhook.ports import Unreachable

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _logs_as_before() -> Iterator[None]:
    """A program sets up logs for its whole process."""
    yield
    structlog.reset_defaults()


def run_python(program: str, **given: Any) -> subprocess.CompletedProcess[str]:
    """A program of so many lines that has ended."""
    command = [sys.executable, "-c", program]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60, **{"cwd": ROOT, **given})


# --- settings --------------------------------------------------------------------------------------------------------


def test_without_any_variable_the_defaults_hold() -> None:
    assert read_settings({}) == Settings()


# --- configuration ---------------------------------------------------------------------------------------------------

GOOD = f"{{name: h, kind: harbor, secret: {{env: S}}, registryHost: {HOST}}}"


@pytest.mark.slow
def test_only_the_configured_kinds_are_imported(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(f"sources: [{GOOD}]")
    program = f"""
import sys
from handlers.configuration import read_configuration
read_configuration({str(path)!r}, {{"S": "x"}})
found = [name for name in sys.modules if name.startswith("adapters.registries.") and ".common" not in name]
print(",".join(found), "httpx" in sys.modules, "jwt" in sys.modules)
"""
    assert run_python(program).stdout.split() == ["adapters.registries.harbor", "False", "False"]


# --- an API server that is not there ---------------------------------------------------------------------------------


@in_world()
async def test_an_api_server_that_does_not_answer_is_one_line_and_tried_until_it_does(world: World) -> None:
    world.answer(Unreachable("connection refused"))
    asyncio.get_running_loop().call_later(100, world.faults.clear)
    await wait_for_api_server(Kubernetes(world.transport), world.clock)
    assert 100 <= world.monotonic() < 110
    first, last = logged("api-server-unreachable", "api-server-reached")
    assert (first["event"], last["event"]) == ("api-server-unreachable", "api-server-reached")
    assert "KUBECONFIG" in first["hint"]


@in_world()
async def test_an_api_server_that_refuses_is_there(world: World) -> None:
    world.answer(status(403))
    await wait_for_api_server(Kubernetes(world.transport), world.clock)
    assert world.monotonic() == 0


@pytest.mark.parametrize(
    ("code", "raises"), [(400, Refused), (413, Refused), (401, RetryLater), (404, RetryLater), (500, RetryLater)]
)
def test_an_answer_of_the_handlers_says_whether_to_try_again(code: int, raises: type[Exception]) -> None:
    with pytest.raises(raises):
        raise_for_status(httpx.Response(code, text="why"), "/events")


def test_the_wait_that_the_handlers_ask_for_is_kept() -> None:
    with pytest.raises(RetryLater) as caught:
        raise_for_status(httpx.Response(503, headers={"retry-after": "7"}), "/events")
    assert caught.value.retry_after_seconds == 7
    raise_for_status(httpx.Response(204), "/events")


@pytest.mark.parametrize("wait", ["\xb2", "nan", "inf", "-1", "1e3", "9" * 400, "Sun, 06 Nov 1994 08:49:37 GMT", ""])
def test_a_wait_that_is_no_number_of_seconds_is_none(wait: str) -> None:
    with pytest.raises(RetryLater) as caught:
        raise_for_status(httpx.Response(503, headers=[(b"retry-after", wait.encode("latin-1"))]), "/events")
    assert caught.value.retry_after_seconds is None


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
@real_time
async def test_events_and_their_token_never_go_to_a_proxy_of_the_environment(
    variable: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("of-the-events\n")
    met: dict[str, list[str]] = {"handlers": [], "proxy": []}

    def meeting(name: str) -> Any:
        async def meet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            met[name].append((await reader.readuntil(b"\r\n\r\n")).decode())
            writer.write(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n")
            writer.close()

        return meet

    async with (
        await asyncio.start_server(meeting("handlers"), "127.0.0.1") as handlers,
        await asyncio.start_server(meeting("proxy"), "127.0.0.1") as proxy,
    ):
        monkeypatch.setenv(variable, f"http://127.0.0.1:{proxy.sockets[0].getsockname()[1]}")
        url = f"http://127.0.0.1:{handlers.sockets[0].getsockname()[1]}/events"
        settings = Settings(watch=True, serve=frozenset(), events_url=url, events_token_file=tmp_path / "token")
        async with open_event_sink(settings) as post:
            assert post is not None
            await post(sync_event(1, START))
    assert met["proxy"] == []
    assert "authorization: Bearer of-the-events\r\n" in met["handlers"][0]


# --- as processes ----------------------------------------------------------------------------------------------------


def wait_until(process: subprocess.Popen[bytes], url: str) -> None:
    """Until somebody answers there."""
    deadline = time.monotonic() + 30
    while True:
        try:
            urllib.request.urlopen(url, timeout=1).close()
        except OSError:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        else:
            return


@pytest.mark.e2e
@pytest.mark.parametrize("arguments", [[], ["--watch"]])
def test_web_without_an_api_server_serves_and_ends_with_0_when_it_is_asked_to(
    arguments: list[str], tmp_path: Path
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(f"sources: [{GOOD}]")
    kubeconfig = tmp_path / "kubeconfig"
    server = {"name": "x", "cluster": {"server": f"http://127.0.0.1:{free_port()}"}}
    context = {"name": "x", "context": {"cluster": "x", "user": "x"}}
    named = {"clusters": [server], "contexts": [context], "users": [{"name": "x", "user": {}}]}
    kubeconfig.write_text(json.dumps({**named, "current-context": "x"}))
    port = free_port()
    settings = {"PORT": str(port), "KUBECONFIG": str(kubeconfig), "WARMHOOK_CONFIG": str(config)}
    environ = {**os.environ, **settings, "WARMHOOK_LOG": "json", "S": "x"}
    command = [sys.executable, "-m", "handlers", *arguments]
    with subprocess.Popen(command, env=environ, stderr=subprocess.PIPE) as process:
        wait_until(process, f"http://127.0.0.1:{port}/readyz")
        answer = httpx.post(f"http://127.0.0.1:{port}/webhooks/harbor", headers={"authorization": "x"})
        assert answer.status_code == 404
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(json.loads(line))
            if lines[-1]["event"] == "api-server-unreachable":
                break
        process.send_signal(signal.SIGTERM)
        assert process.wait(15) == 0
        lines += [json.loads(line) for line in process.stderr.read().decode().splitlines()]
    assert [line["event"] for line in lines].count("api-server-unreachable") == 1
    # Without a token file nobody but the watch inside can post.
    assert ("events-closed" in [line["event"] for line in lines]) == (not arguments)
    assert lines[-1]["event"] == "web-stopped"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "without"),
    [
        ("handlers", ()),
        ("handlers.watch", ("pydantic",)),
        ("nodeagent", ("pydantic", "cryptography", "uvloop", "starlette", "uvicorn", "cloudevents", "click")),
    ],
)
def test_a_program_starts_without_libraries_that_it_seldom_needs(module: str, without: tuple[str, ...]) -> None:
    # Each was a tenth or more of an agent's memory, or of the time in which `web` comes up.
    absent = {
        "kubernetes",
        "structlog",
        "structlog.dev",
        "rich",
        "jwt",
        "httpx",
        "grpc",
        "jinja2",
        "handlers.ui",
        *without,
    }
    absent -= {"grpc"} if module == "nodeagent" else set()
    program = f"import sys, {module}.__main__\nprint(*sys.modules)"
    imported = set(run_python(program).stdout.split())
    assert f"{module}.__main__" in imported
    assert not absent & imported
    assert not {name for name in imported if name.startswith("handlers.ui")}


@pytest.mark.slow
@pytest.mark.parametrize("module", ["handlers", "handlers.watch", "nodeagent"])
def test_a_program_that_is_asked_to_stop_while_it_starts_ends_with_0(module: str) -> None:
    # Stopped where the imports begin, so that the signal comes before the program has handlers of its own.
    program = f"""
import os, runpy, signal, sys
class Importing:
    def find_spec(self, name, path=None, target=None):
        if name == "aiohttp":
            os.kill(os.getpid(), signal.SIGTERM)
sys.meta_path.insert(0, Importing())
sys.argv = [{module!r}]
runpy.run_module({module!r}, run_name="__main__", alter_sys=True)
"""
    done = run_python(program)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
@pytest.mark.parametrize("module", ["handlers", "handlers.watch", "nodeagent"])
def test_a_program_starts_as_a_user_without_a_name_and_without_an_environment(module: str, tmp_path: Path) -> None:
    # What `pathlib.Path.home` meets there; a test that does not run as root cannot become another user.
    program = f"""
import pwd, runpy, sys
def unknown(_uid):
    raise KeyError("uid not found")
pwd.getpwuid = unknown
sys.argv = [{module!r}]
sys.path.insert(0, {str(ROOT)!r})
runpy.run_module({module!r}, run_name="__main__", alter_sys=True)
"""
    done = run_python(program, env={}, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("\n") == 1
