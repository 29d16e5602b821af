"""Run programs as children, watch them, and stop them in order, so that none is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from warmhook.ports import Sleep

_STOP_SECONDS: Final = 5.0
_READY_SECONDS: Final = 60.0
_POLL_SECONDS: Final = 0.02
_TAIL_LINES: Final = 8
_PR_SET_PDEATHSIG: Final = 1


class ProgramFailed(Exception):
    """A program ended, or did not become ready; the message says which and how, `tail` is the end of its log."""

    def __init__(self, message: str, tail: str = "") -> None:
        super().__init__(message)
        self.tail = tail
        if tail:
            self.add_note(tail)


@dataclass(frozen=True, slots=True)
class Program:
    """A child process, the first of a process group of its own."""

    name: str
    process: asyncio.subprocess.Process
    log: Path
    """Everything it prints."""
    stage: int
    """Programs of a higher stage depend on those of a lower one, so they are stopped first."""
    log_start: int = 0
    """The size of the log when the program started, in bytes: before it is what earlier ones of this name printed."""

    @property
    def ended(self) -> str:
        """How it ended, such as `ended with exit status 2`; empty while it runs."""
        status = self.process.returncode
        if status is None:
            return ""
        return f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with exit status {status}"

    def output(self) -> str:
        """What programs of this name have printed so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def printed(self) -> str:
        """What this process has printed so far."""
        return self.log.read_bytes()[self.log_start :].decode(errors="replace")

    def tail(self) -> str:
        """The last lines it printed."""
        return "\n".join(self.output().splitlines()[-_TAIL_LINES:])

    def failed(self, what: str) -> ProgramFailed:
        """The error to raise about this program."""
        return ProgramFailed(f"{self.name} {what}", self.tail())

    async def kill(self) -> None:
        """End the whole group at once, as a crash would."""
        self._signal(signal.SIGKILL)
        await self.process.wait()

    async def stop(self) -> None:
        """Ask the whole group to stop, and kill it if it does not within 5 s."""
        if self.process.returncode is not None:
            return
        self._signal(signal.SIGTERM)
        # One that was suspended would not hear the other.
        self._signal(signal.SIGCONT)
        try:
            await asyncio.wait_for(self.process.wait(), _STOP_SECONDS)
        except TimeoutError:
            await self.kill()

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)


class Programs:
    """The programs that live as long as the context; leaving it stops them, the highest stage first."""

    def __init__(self, logs: Path, environ: Mapping[str, str], *, folder: Path, sleep: Sleep = asyncio.sleep) -> None:
        """Each program's output goes to `logs`/<name>.log, its environment begins as `environ`, `folder` is its own."""
        self._logs, self._environ, self._folder, self._sleep = logs, dict(environ), folder, sleep
        self._all: list[Program] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        # In a task of its own: a second Ctrl-C must not leave half of the programs running.
        stopping = asyncio.create_task(self._stop(), name="stop-programs")
        while not stopping.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.shield(stopping)
        stopping.result()

    async def start(
        self, name: str, command: Sequence[str], *, stage: int, environ: Mapping[str, str] | None = None
    ) -> Program:
        """Start one. Raises `ProgramFailed` if there is no such command."""
        log = self._logs / f"{name}.log"
        with log.open("ab") as output:
            log_start = output.tell()
            try:
                process = await asyncio.create_subprocess_exec(
                    *command,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    env=self._environ | dict(environ or {}),
                    cwd=self._folder,
                    start_new_session=True,
                    preexec_fn=_end_with_parent if sys.platform == "linux" else None,
                )
            except OSError as error:
                raise ProgramFailed(f"{name}: cannot run {command[0]}: {error.strerror}") from error
        program = Program(name, process, log, stage, log_start)
        self._all.append(program)
        return program

    async def prints(self, program: Program, words: str) -> None:
        """Wait until this process has printed `words`. Raises `ProgramFailed` as `ready` does."""
        await self.ready(program, lambda: words in program.printed())

    async def ready(
        self, program: Program, is_ready: Callable[[], Awaitable[bool] | bool], *, seconds: float = _READY_SECONDS
    ) -> None:
        """Wait until `is_ready` says so. Raises `ProgramFailed` if the program ends before, or does not get there."""
        try:
            async with asyncio.timeout(seconds):
                while True:
                    answer = is_ready()
                    if answer if isinstance(answer, bool) else await answer:
                        return
                    if program.ended:
                        raise program.failed(f"{program.ended} while it started")
                    await self._sleep(_POLL_SECONDS)
        except TimeoutError:
            raise program.failed(f"was not ready within {seconds:.0f} s") from None

    async def _stop(self) -> None:
        for stage in sorted({program.stage for program in self._all}, reverse=True):
            await asyncio.gather(*(program.stop() for program in self._all if program.stage == stage))


_libc: Final = ctypes.CDLL(None)


def _end_with_parent() -> None:
    """Have the kernel end this child when the program that started it is killed, so that not even that leaves it."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
