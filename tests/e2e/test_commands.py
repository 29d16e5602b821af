"""The commands of an operator work against programs that run, under both of their names."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from adapters.kubernetes import paths
from adapters.kubernetes.client import Kubernetes
from adapters.kubernetes.transport import open_transport
from adapters.kubernetes.warmimage import warmimage_crd
from cli.main import main
from tests.e2e.test_demo import serving
from tests.real.programs import real_time
from tests.support.apiserver import apiserver
from tests.support.images import image_object
from warmhook.api import API_VERSION
from warmhook.warmimages import ObjectKey

pytestmark = pytest.mark.e2e

PROGRAMS = Path(sys.executable).parent
ENVIRON = {"PATH": f"{PROGRAMS}:/usr/local/bin:/usr/bin:/bin", "HOME": "/nonexistent"}


def run(*command: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env={**ENVIRON, **environ}, capture_output=True, text=True, timeout=60, check=False)


async def prepare(kubeconfig: Path) -> None:
    """A cluster in which one image is warm on two nodes of three, and one is new."""
    async with open_transport(str(kubeconfig)) as transport:
        kubernetes = Kubernetes(transport)
        await kubernetes.create(paths.CRDS, warmimage_crd())
        for name in ("shop", "warmhook-system"):
            await kubernetes.create("/api/v1/namespaces", {"metadata": {"name": name}})
        await kubernetes.create(paths.NODES, {"metadata": {"name": "node-1"}})
        failures = [("node-9", "NotFound", "no such tag")]
        obj = image_object("web:v1", warm=2, failed=1, failures=failures)
        status = obj["status"] | {"observedGeneration": 1}
        for condition in status["conditions"]:
            condition["lastTransitionTime"] = "2026-03-01T12:00:00Z"
        metadata = {"name": "web", "namespace": "shop"}
        made = await kubernetes.create(
            paths.warmimages_in("shop"),
            {"apiVersion": API_VERSION, "kind": "WarmImage", "metadata": metadata, "spec": obj["spec"]},
        )
        path = paths.status(paths.warmimages(ObjectKey("shop", "web")))
        await kubernetes.replace(path, made | {"status": status})


@pytest.fixture
def kubeconfig(tmp_path: Path) -> Iterator[Path]:
    with apiserver(tmp_path):
        real_time(prepare)(tmp_path / "kubeconfig")
        yield tmp_path / "kubeconfig"


@pytest.mark.parametrize("program", ["warmhook", "kubectl-warm"])
def test_both_names_of_the_command_show_the_same(kubeconfig: Path, program: str) -> None:
    everything = run(program, "status", "-A", "-o", "json", "--kubeconfig", str(kubeconfig))
    assert (everything.returncode, everything.stderr) == (0, "")
    (image,) = json.loads(everything.stdout)["warmImages"]
    assert (image["name"], image["warm"], image["failed"]) == ("web", 2, 1)


def test_a_job_of_a_ci_is_told_by_the_exit_status(
    kubeconfig: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def call(*arguments: str) -> tuple[int, str, str]:
        status = main(arguments)
        return (status, *capsys.readouterr())

    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
    status, _, said = call("status", "--wait", "h.example/shop/web:v1", "-n", "shop")
    assert status == 1
    assert "h.example/shop/web:v1 is not warm: 2 of 3 nodes, 1 failed\n  NotFound on node-9" in said

    late = "waiting for a WarmImage of h.example/shop/new:v1 in namespace default"
    assert call("status", "--wait", "h.example/shop/new:v1", "--timeout", "1s") == (
        1,
        f"{late}\n",
        f"warmhook: not warm in time: {late}\n",
    )
    assert call("diff", "-A") == (0, "no node should hold an image at all\n", "")
    assert call("diff")[1] == "no node should hold an image of namespace default; -A compares all\n"
    assert call("diff", "nothing")[0] == 2
    assert call("status", "nothing")[0] == 1
    assert call("diff", "--context", "nowhere")[0] == 2
    assert call("status", "--kubeconfig", "/nowhere")[0] == 2


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl")
def test_kubectl_runs_and_completes_the_plugin(kubeconfig: Path) -> None:
    environ = {"KUBECONFIG": str(kubeconfig)}
    assert "h.example/shop/web:v1   2/3    failing" in run("kubectl", "warm", "status", "-n", "shop", **environ).stdout
    wrong = run("kubectl", "warm", "statu", **environ)
    assert wrong.returncode == 2
    assert "kubectl warm" in wrong.stderr
    assert completed("status", "-n", "shop", "", **environ) == ["web", "node-1", ":4"]
    assert completed("status", "node/", **environ) == ["node/node-1", ":4"]


def completed(*words: str, **environ: str) -> list[str]:
    """What kubectl offers; asked again if the cluster did not answer within a second, as on a busy machine."""
    for _ in range(20):
        found = run("kubectl", "__complete", "warm", *words, **environ).stdout.split()
        if found != [":0"]:
            break
    return found


@real_time
async def test_ctrl_c_ends_a_wait_quietly(kubeconfig: Path) -> None:
    command = ("warmhook", "status", "--wait", "h.example/shop/new:v1", "--kubeconfig", str(kubeconfig))
    pipe = asyncio.subprocess.PIPE
    waiting = await asyncio.create_subprocess_exec(*command, env=ENVIRON, stdout=pipe, stderr=pipe)
    assert waiting.stdout is not None
    assert (await waiting.stdout.readline()).startswith(b"waiting for a WarmImage of ")
    waiting.send_signal(signal.SIGINT)
    _, errors = await asyncio.wait_for(waiting.communicate(), 30)
    assert (waiting.returncode, errors.strip()) == (130, b"")


def test_output_that_nobody_reads_ends_a_command_quietly(kubeconfig: Path) -> None:
    shell = f"{shlex.quote(str(PROGRAMS / 'warmhook'))} status -A -o json --kubeconfig {kubeconfig} | true"
    done = run("/bin/sh", "-c", shell)
    assert done.stderr == ""


@real_time
async def test_an_announced_image_is_followed_until_it_is_on_every_node(tmp_path: Path) -> None:
    kubeconfig = tmp_path / "config"
    async with serving("devcluster", "--nodes", "2", "--kubeconfig", str(kubeconfig)) as cluster:
        apply = shlex.split(await cluster.until(r"^ +(kubectl apply .*)"))
        push = shlex.split(await cluster.until(r"^ +(warmhook push .*)"))
        follow = shlex.split(await cluster.until(r"^ +(warmhook status .*)"))
        environ = {**ENVIRON, "KUBECONFIG": str(kubeconfig)}
        assert run(*apply, **environ).returncode == 0
        # It begins before anything was announced.
        waiting = await asyncio.create_subprocess_exec(*follow, env=environ, stdout=asyncio.subprocess.PIPE)
        assert waiting.stdout is not None
        assert (await waiting.stdout.readline()).startswith(b"waiting for a WarmImage of ")
        announced = run(*push, **environ)
        assert announced.returncode == 0, announced.stderr
        rest, _ = await asyncio.wait_for(waiting.communicate(), 60)
        assert waiting.returncode == 0
        assert rest.endswith(b" is warm: 2 of 2 nodes\n")
        same = run("warmhook", "diff", "-A", **environ)
        assert (same.returncode, same.stdout) == (0, "2 nodes hold what they should: 2 lines\n")
        wrong = run(*push[:-2], **environ, WARMHOOK_SECRET="planted-hunter2")
        assert wrong.returncode == 1
        assert "answered 401: the secret is not that of the source" in wrong.stderr
        assert "hunter2" not in wrong.stderr
        os.kill(cluster.process.pid, signal.SIGTERM)
        assert (await cluster.end())[0] == 0
