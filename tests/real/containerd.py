"""Give tests a real containerd: one per call, with its own root, state and socket, gone afterwards.

With `WARMHOOK_TEST_CRI`, tests of runtimes in general get the runtime at that socket in its place.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

from adapters.cri import open_runtime
from devcluster.containerd import command, prepare, socket_of, unmount
from tests.real.programs import eventually, need, stop
from warmhook.ports import RuntimeUnreachable

__all__ = ["AT_SOCKET", "FAULTY_PORT", "REGISTRY_PORT", "Containerd", "start_containerd", "start_runtime"]

AT_SOCKET: Final = os.environ.get("WARMHOOK_TEST_CRI", "").removeprefix("unix://")
# A runtime that the tests do not configure must know the registries as ones without TLS, so their ports are fixed then.
REGISTRY_PORT: Final = 5555 if AT_SOCKET else 0
FAULTY_PORT: Final = 5556 if AT_SOCKET else 0
_PROGRAM = os.environ.get("WARMHOOK_TEST_CONTAINERD") or "containerd"


@dataclass(slots=True)
class Containerd:
    """A containerd of the test's own."""

    root: Path
    _process: asyncio.subprocess.Process | None = field(default=None, init=False, repr=False)

    @property
    def socket(self) -> Path:
        """Its gRPC socket: CRI and containerd's own services."""
        return socket_of(self.root)

    @property
    def endpoint(self) -> str:
        """The socket as `CONTAINER_RUNTIME_ENDPOINT` takes it."""
        return f"unix://{self.socket}"

    @property
    def certs(self) -> Path:
        """Its `certs.d`: `<host>/hosts.toml` is read at each pull."""
        return self.root / "certs.d"

    @property
    def pid(self) -> int:
        """Of its process; 0 before it is started."""
        return self._process.pid if self._process else 0

    def log(self) -> str:
        """What it has printed so far."""
        return (self.root / "log").read_text(errors="replace")

    async def start(self) -> None:
        """Start it and wait until its CRI answers."""
        with (self.root / "log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *command(self.root, _PROGRAM), stdout=log, stderr=log, start_new_session=True
            )
        await eventually(self._answers, what=f"containerd's CRI answers; its log: {self.log()[-2000:]}", seconds=30)

    async def kill(self) -> None:
        """End it as a crash would."""
        if self._process:
            await stop(self._process, signal.SIGKILL)

    async def stop(self) -> None:
        """End it in order."""
        if self._process:
            await stop(self._process)

    async def restart(self) -> None:
        """Stop and start it on the same content."""
        await self.stop()
        await self.start()

    async def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.returncode is None, f"containerd ended: {self.log()[-2000:]}"
        async with open_runtime(self.endpoint) as runtime:
            try:
                await runtime.images()
            except RuntimeUnreachable:
                return False
            return True


@contextlib.asynccontextmanager
async def start_containerd(*, parent: Path = Path("/tmp"), more: str = "") -> AsyncIterator[Containerd]:
    """A running containerd; skips or fails the test (requirement `containerd`) where there is none or no root.

    `parent` is where its folder is made: another file system, for tests of full disks. `more` is added to its
    configuration.
    """
    need("containerd", _PROGRAM, root=True)
    root = Path(tempfile.mkdtemp(prefix="wh", dir=parent))
    prepare(root)
    with (root / "config.toml").open("a") as file:
        file.write(more)
    containerd = Containerd(root)
    try:
        await containerd.start()
        yield containerd
    finally:
        await containerd.stop()
        await unmount(root)
        shutil.rmtree(root)


class _RuntimeAtSocket(Containerd):
    """The runtime at `WARMHOOK_TEST_CRI`: tests that would start, stop or configure it are skipped."""

    @property
    def socket(self) -> Path:
        return Path(AT_SOCKET)

    @property
    def certs(self) -> Path:
        pytest.skip("WARMHOOK_TEST_CRI: the tests do not configure this runtime")

    async def start(self) -> None:
        pytest.skip("WARMHOOK_TEST_CRI: the tests do not start or stop this runtime")

    kill = stop = restart = start


@contextlib.asynccontextmanager
async def start_runtime(*, parent: Path = Path("/tmp")) -> AsyncIterator[Containerd]:
    """A containerd as of `start_containerd`, or the runtime at `WARMHOOK_TEST_CRI`.

    That one must have no images, and has none afterwards.
    """
    if not AT_SOCKET:
        async with start_containerd(parent=parent) as containerd:
            yield containerd
        return
    if parent != Path("/tmp"):
        pytest.skip("WARMHOOK_TEST_CRI: the tests do not choose the disk of this runtime")
    at_socket = _RuntimeAtSocket(parent)
    async with open_runtime(at_socket.endpoint) as runtime:
        assert await runtime.images() == [], f"{AT_SOCKET} has images: the tests need a runtime for themselves"
        try:
            yield at_socket
        finally:
            for image in await runtime.images():
                await runtime.remove(image.id)
