"""Pull one image: to the end, to a failure or until it is cancelled; the log shows that it goes on."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

from adapters.clock import Clock
from adapters.logs import Log
from warmhook.node_report import clean_message
from warmhook.ports import PullFailed, Runtime, RuntimeUnreachable
from warmhook.pull_failures import FailureReason
from warmhook.pull_queue import ImagePull

__all__ = ["Failure", "pull_image"]

_PROGRESS_SECONDS: Final = 30.0
# The runtime ends a pull at its time limit; this is for one that does not.
_GRACE_SECONDS: Final = 15.0


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a pull did not work."""

    reason: FailureReason
    message: str
    unreachable: bool = False
    """The runtime itself did not answer."""


async def pull_image(runtime: Runtime, pull: ImagePull, clock: Clock, log: Log) -> Failure | None:
    """Pull; `None` when the runtime says that it has. Cancelling cancels at the runtime."""
    began = clock.monotonic()
    try:
        async with _progress(runtime, pull, clock, log), asyncio.timeout(pull.timeout_seconds + _GRACE_SECONDS):
            await runtime.pull(pull.image, timeout_seconds=pull.timeout_seconds)
    except PullFailed as error:
        if clock.monotonic() - began >= pull.timeout_seconds:
            # A runtime whose process is stopped makes gRPC end the call with whatever words it has.
            return _timeout(pull)
        return Failure(error.reason, clean_message(error.message))
    except RuntimeUnreachable as error:
        return Failure("RuntimeError", clean_message(str(error)), unreachable=True)
    except TimeoutError:
        return _timeout(pull)
    except Exception as error:
        # Whatever one image makes a library do, the others are pulled all the same.
        log.exception("pull-crashed", image=pull.image)
        return Failure("RuntimeError", clean_message(f"{type(error).__name__}: {error}"))
    return None


def _timeout(pull: ImagePull) -> Failure:
    return Failure("Timeout", f"the pull took longer than {pull.timeout_seconds} s")


@contextlib.asynccontextmanager
async def _progress(runtime: Runtime, pull: ImagePull, clock: Clock, log: Log) -> AsyncIterator[None]:
    task = asyncio.create_task(_tell_progress(runtime, pull, clock, log), name=f"progress of {pull.image}")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait((task,))


async def _tell_progress(runtime: Runtime, pull: ImagePull, clock: Clock, log: Log) -> None:
    began, used_before = clock.monotonic(), 0
    while True:
        await clock.sleep(_PROGRESS_SECONDS)
        try:
            used = sum([filesystem.used_bytes for filesystem in await runtime.filesystems()])
        except Exception as error:
            log.info("pulling", image=pull.image, seconds=round(clock.monotonic() - began), error=str(error)[:200])
            continue
        # CRI tells no progress of a pull: the growth of the image file system has to do, all pulls together.
        grown = used - used_before if used_before else None
        used_before = used
        log.info("pulling", image=pull.image, seconds=round(clock.monotonic() - began), node_bytes_since_last=grown)
