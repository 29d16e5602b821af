"""`warmhook unpin` lists and removes the pins of Warmhook on a node, and no others, with nothing but containerd."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

import pytest

from adapters.containerd import open_containerd
from adapters.cri import open_runtime
from cli.main import main
from devcluster.cri.server import serve_cri
from devcluster.registry.images import incompressible_image, write_image
from devcluster.registry.serve import serve_registry
from tests.real.containerd import start_containerd
from tests.real.programs import real_time
from warmhook.pins import OURS, PIN, PINNED

Capture = pytest.CaptureFixture[str]


async def unpin(*arguments: str) -> int:
    """The exit status of the command, which needs an event loop of its own."""
    return await asyncio.to_thread(main, ["unpin", *arguments])


@pytest.mark.containerd
def test_pins_are_listed_and_with_yes_removed_while_those_of_others_stay(capsys: Capture) -> None:
    @real_time
    async def run() -> None:
        with tempfile.TemporaryDirectory(prefix="wh", dir="/tmp") as folder:
            async with (
                serve_registry(Path(folder)) as registry,
                start_containerd() as node,
                open_runtime(node.endpoint) as runtime,
                open_containerd(node.endpoint) as containerd,
            ):
                write_image(registry.root, "shop/web", "1", incompressible_image(0.1, "web"))
                reference = f"{registry.host}/shop/web:1"
                image_id = await runtime.pull(reference, timeout_seconds=30)
                await containerd.set_labels(reference, PINNED)
                await containerd.set_labels(image_id, {PIN: "pinned"})

                assert await unpin("--endpoint", node.endpoint) == 0
                out, err = capsys.readouterr()
                assert (out, "names: 1" in err, "--yes" in err) == (f"{reference}\n", True, True)

                assert await unpin("--endpoint", node.endpoint, "--yes") == 0
                assert capsys.readouterr().out == f"{reference}\n"
                labels = {image.name: image.labels for image in await containerd.images()}
                assert not {PIN, OURS} & labels[reference].keys()
                assert labels[image_id][PIN] == "pinned"

                assert await unpin("--endpoint", node.endpoint) == 0
                assert capsys.readouterr() == ("", "no name is pinned by Warmhook\n")

    run()


@pytest.mark.slow
def test_a_runtime_that_is_not_containerd_has_no_pins(capsys: Capture) -> None:
    @real_time
    async def run() -> None:
        with tempfile.TemporaryDirectory(prefix="wh", dir="/tmp") as folder:
            async with serve_cri(Path(folder) / "s", Path(folder) / "content", platform="linux/amd64"):
                assert await unpin("--endpoint", f"unix://{folder}/s") == 1
        assert "not containerd" in capsys.readouterr().err

    run()


def test_a_socket_that_nobody_serves_is_named_with_what_to_do(capsys: Capture) -> None:
    assert main(["unpin", "--endpoint", "/nowhere/containerd.sock"]) == 1
    err = capsys.readouterr().err
    assert "/nowhere/containerd.sock" in err
    assert "as root on the node" in err
    assert err.count("\n") == 1


def test_an_endpoint_that_is_no_socket_is_refused(capsys: Capture) -> None:
    assert main(["unpin", "--endpoint", "tcp://127.0.0.1:1"]) == 2
    assert "expected a socket" in capsys.readouterr().err
