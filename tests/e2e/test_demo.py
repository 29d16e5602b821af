"""`warmhook demo` does what it promises in one terminal, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.real.programs import real_time

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
# Of a machine that is busy with other tests; the demo alone takes a third of its 15 s.
SECONDS = 60


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = (sys.executable, "-m", "cli.main", *arguments)
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS, check=False)


def folder_in(output: str) -> Path:
    found = re.search(r"starting a cluster in (\S+)", output)
    assert found, output
    return Path(found[1])


def processes_of(folder: Path) -> Iterator[tuple[int, str, str]]:
    """Id, command and environment of every process that belongs to the demo in that folder."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            environ = (process / "environ").read_bytes().replace(b"\0", b"\n").decode(errors="replace")
            if f"{folder}/" in command + environ:
                yield int(process.name), command, environ


def nothing_is_left(folder: Path) -> bool:
    return not folder.exists() and not list(processes_of(folder))


def rows(output: str) -> dict[str, list[str]]:
    """The final table: node to the other columns."""
    lines = output.rpartition("NODE")[2].splitlines()
    return {line.split()[0]: line.split()[1:] for line in lines if re.match(r"\s+node-\d+ ", line)}


@dataclass
class Serving:
    """A command that keeps running."""

    process: asyncio.subprocess.Process
    output: str = ""

    async def until(self, pattern: str) -> str:
        """Read on until a line matches, and return its first group, or all of the match."""
        assert self.process.stdout is not None
        async with asyncio.timeout(SECONDS):
            while line := (await self.process.stdout.readline()).decode():
                self.output += line
                if found := re.search(pattern, line):
                    return found[found.re.groups and 1]
        raise AssertionError(f"ended before {pattern!r}:\n{self.output}")

    async def end(self) -> tuple[int, str]:
        """Exit status and standard error, once it has ended."""
        async with asyncio.timeout(SECONDS):
            _, errors = await self.process.communicate()
        return await self.process.wait(), errors.decode()


@contextlib.asynccontextmanager
async def serving(*arguments: str) -> AsyncIterator[Serving]:
    command = (sys.executable, "-m", "cli.main", *arguments)
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=pipe, stderr=pipe)
    try:
        yield Serving(process)
    finally:
        if process.returncode is None:
            process.terminate()
            await process.communicate()


async def shell(line: str) -> str:
    """Run a line as if it had been pasted."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_shell(line, stdout=pipe, stderr=pipe)
    async with asyncio.timeout(SECONDS):
        output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    return output.decode()


async def all_gone(folder: Path) -> None:
    """Wait until no process belongs to that folder: the kernel tells them, and they end in order."""
    for _ in range(SECONDS * 20):
        if not list(processes_of(folder)):
            return
        await asyncio.sleep(0.05)
    raise AssertionError(list(processes_of(folder)))


def test_ends_with_every_node_warm() -> None:
    demo = run("demo")

    assert demo.returncode == 0, demo.stdout + demo.stderr
    assert demo.stderr == ""
    table = rows(demo.stdout)
    assert sorted(table) == ["node-1", "node-2", "node-3"]
    assert all(state == "warm" and float(seconds) > 0 for state, seconds in table.values())
    assert nothing_is_left(folder_in(demo.stdout))


def test_a_node_whose_agent_is_stopped_is_named_with_the_reason() -> None:
    demo = run("demo", "--stop-agent", "node-2")

    assert demo.returncode == 1
    assert "node-2 is not warm: its agent ended with exit status 0" in demo.stdout
    table = rows(demo.stdout)
    assert {node: columns[0] for node, columns in table.items()} == {
        "node-1": "warm",
        "node-2": "unreachable",
        "node-3": "warm",
    }
    assert "The end of the log of agent-node-2:" in demo.stderr


def test_json_is_one_object_and_nothing_else() -> None:
    demo = run("demo", "--json", "--nodes", "2")

    assert (demo.returncode, demo.stderr) == (0, "")
    told = json.loads(demo.stdout)
    assert (told["ok"], told["reason"]) == (True, "all nodes are warm")
    assert [(node["node"], node["state"]) for node in told["nodes"]] == [("node-1", "warm"), ("node-2", "warm")]
    assert told["seconds"] == max(node["seconds"] for node in told["nodes"])


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
@real_time
async def test_the_line_that_it_shows_warms_a_second_image_and_ctrl_c_leaves_nothing() -> None:
    async with serving("demo", "--serve", "--nodes", "2") as demo:
        line = await demo.until(r"^ +(curl .*)")
        assert "202 Accepted" in await shell(line)
        warm = {await demo.until(r"(node-\d) is warm: \S+/shop/web:v2") for _ in range(2)}
        assert warm == {"node-1", "node-2"}
        folder = folder_in(demo.output)
        assert (folder / "kubeconfig").is_file()
        assert len(list(processes_of(folder))) == 7

        demo.process.send_signal(signal.SIGINT)

        assert await demo.end() == (0, "")
        assert nothing_is_left(folder)


@pytest.mark.parametrize(
    ("mark", "name"),
    [("NODE_NAME=node-1\n", "agent-node-1"), ("-m devcluster.apiserver", "apiserver")],
    ids=["agent", "server"],
)
@real_time
async def test_a_program_that_dies_meanwhile_is_named(mark: str, name: str) -> None:
    async with serving("demo", "--serve", "--nodes", "1") as demo:
        await demo.until(r"^ +curl ")
        folder = folder_in(demo.output)
        [pid] = [pid for pid, command, environ in processes_of(folder) if mark in command + environ]

        os.kill(pid, signal.SIGKILL)

        status, errors = await demo.end()
        assert status == 1
        assert errors.splitlines()[0] == f"warmhook: {name} was ended by SIGKILL; the end of its log:"
        assert nothing_is_left(folder)


@real_time
async def test_ctrl_c_while_it_starts_leaves_nothing() -> None:
    async with serving("demo") as demo:
        await demo.until("API server ")

        demo.process.send_signal(signal.SIGINT)

        assert await demo.end() == (1, "")
        assert nothing_is_left(folder_in(demo.output))


@real_time
async def test_even_when_it_is_killed_no_program_stays() -> None:
    async with serving("demo", "--serve", "--nodes", "1") as demo:
        await demo.until(r"^ +curl ")
        folder = folder_in(demo.output)
        try:
            demo.process.kill()
            await demo.end()
            await all_gone(folder)
        finally:
            shutil.rmtree(folder)


@pytest.mark.containerd
@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("containerd") is None, reason="needs root and containerd")
def test_warms_a_real_containerd_on_each_node() -> None:
    demo = run("demo", "--runtime", "containerd", "--nodes", "2")

    assert demo.returncode == 0, demo.stdout + demo.stderr
    assert [columns[0] for columns in rows(demo.stdout).values()] == ["warm", "warm"]
    folder = folder_in(demo.stdout)
    assert nothing_is_left(folder)
    assert str(folder) not in Path("/proc/self/mounts").read_text()


@pytest.mark.containerd
@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("containerd") is None, reason="needs root and containerd")
def test_shows_from_whom_each_node_got_the_image() -> None:
    demo = run("demo", "--peers", "--json")

    assert (demo.returncode, demo.stderr) == (0, "")
    told = json.loads(demo.stdout)
    assert told["registryBytes"] < 1.2 * told["imageBytes"]
    fetched = {each["node"]: each for each in told["transfers"]}
    assert sorted(fetched) == [f"node-{number}" for number in range(1, 6)]
    assert [node for node, each in fetched.items() if each["registry_kib"]] == [
        node for node, each in fetched.items() if not each["parents"]
    ]
    for each in fetched.values():
        assert 1024 * (each["peer_kib"] + each["registry_kib"]) == pytest.approx(told["imageBytes"], rel=0.01)
        assert set(each["parents"]) <= fetched.keys() - {each["node"]}


@pytest.mark.skipif(shutil.which("kubectl") is None or shutil.which("curl") is None, reason="needs kubectl and curl")
@real_time
async def test_a_policy_applied_to_the_devcluster_warms_its_nodes(tmp_path: Path) -> None:
    kubeconfig = tmp_path / "config"
    async with serving("devcluster", "--nodes", "2", "--kubeconfig", str(kubeconfig)) as cluster:
        apply = await cluster.until(r"^ +(kubectl apply .*)")
        push = await cluster.until(r"^ +(curl .*)")
        await shell(f"KUBECONFIG={kubeconfig} {apply}")
        assert "202 Accepted" in await shell(push)
        warm = {await cluster.until(r"(node-\d) is warm: \S+/shop/web:v1") for _ in range(2)}
        assert warm == {"node-1", "node-2"}

        cluster.process.send_signal(signal.SIGTERM)

        assert await cluster.end() == (0, "")
        assert nothing_is_left(folder_in(cluster.output))
        assert not kubeconfig.exists()
