"""Start a real program, wait for it and stop it; skip or fail a test if the program is absent."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from pathlib import Path
from typing import IO, Any, ParamSpec

import pytest

from devcluster.cluster import free_port

__all__ = ["eventually", "free_port", "need", "real_time", "running", "small_disk", "stop"]

_STOP_SECONDS = 10.0
_Given = ParamSpec("_Given")


def real_time(test: Callable[_Given, Coroutine[Any, Any, None]]) -> Callable[_Given, None]:
    """Run an asynchronous test on an event loop whose clock is the machine's."""

    @functools.wraps(test)
    def run(*args: _Given.args, **kwargs: _Given.kwargs) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


def need(name: str, *programs: str, root: bool = False) -> None:
    """Skip the test where a program is absent; fail where `WARMHOOK_TEST_REQUIRE` lists `name`."""
    missing = [program for program in programs if shutil.which(program) is None]
    if root and os.geteuid() != 0:
        missing.append("root")
    if not missing:
        return
    reason = f"{name}: needs {', '.join(missing)}"
    if name in os.environ.get("WARMHOOK_TEST_REQUIRE", "").split(","):
        pytest.fail(reason)
    pytest.skip(reason)


async def eventually(
    holds: Callable[[], Coroutine[Any, Any, bool]] | Callable[[], bool], *, what: str, seconds: float = 20
) -> None:
    """Wait until `holds` does; `TimeoutError` says `what` did not."""
    try:
        async with asyncio.timeout(seconds):
            while True:
                answer = holds()
                if answer if isinstance(answer, bool) else await answer:
                    return
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise TimeoutError(f"not within {seconds:g} s: {what}") from None


async def stop(process: asyncio.subprocess.Process, number: int = signal.SIGTERM) -> None:
    """Signal the program's whole process group and wait for its end; SIGKILL where it does not listen."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        try:
            await asyncio.wait_for(process.wait(), _STOP_SECONDS)
        except TimeoutError:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


@contextlib.asynccontextmanager
async def running(
    *command: str, log: Path, env: Mapping[str, str] | None = None
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a program in its own process group, its output appended to `log`."""
    with _appending(log) as output:
        process = await asyncio.create_subprocess_exec(
            *command, stdout=output, stderr=output, env=dict(os.environ) | dict(env or {}), start_new_session=True
        )
    try:
        yield process
    finally:
        await stop(process)


@contextlib.asynccontextmanager
async def small_disk(*, megabytes: int) -> AsyncIterator[Path]:
    """A file system of this size; skips or fails the test (requirement `containerd`) where nobody may mount one."""
    need("containerd", "mount", "mkfs.ext4", root=True)
    with tempfile.TemporaryDirectory(prefix="wh", dir="/tmp") as folder:
        image, point = Path(folder) / "disk", Path(folder) / "m"
        with image.open("wb") as file:
            file.truncate(megabytes * 10**6)
        await _run("mkfs.ext4", "-q", "-m", "0", str(image))
        point.mkdir()
        await _run("mount", "-o", "loop", str(image), str(point))
        try:
            yield point
        finally:
            await _run("umount", "-l", str(point))


async def _run(*command: str) -> None:
    process = await asyncio.create_subprocess_exec(*command)
    assert await process.wait() == 0, command


def _appending(path: Path) -> IO[bytes]:
    return path.open("ab")
