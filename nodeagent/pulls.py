"""Pull one image, translate its failure, and log the running pull every half minute."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

from adapters.clock import Clock
from adapters.logs import Log
from adapters.tasks import in_background
from warmhook.node_report import clean_message
from warmhook.ports import PullFailed, Runtime, RuntimeUnreachable
from warmhook.pull_failures import FailureReason
from warmhook.pull_queue import ImagePull

_PROGRESS_SECONDS: Final = 30.0
# A runtime ends a pull at its time limit; this is for a runtime that does not.
_GRACE_SECONDS: Final = 15.0


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a pull failed."""

    reason: FailureReason
    message: str
    unreachable: bool = False
    """Whether the runtime itself did not answer."""


async def pull_image(runtime: Runtime, pull: ImagePull, clock: Clock, log: Log) -> Failure | None:
    """Pull; `None` if the runtime reports success. Cancelling cancels the pull at the runtime."""
    began, progress = clock.monotonic(), _log_progress(runtime, pull, clock, log)
    try:
        async with in_background(progress, f"progress of {pull.image}"):
            async with asyncio.timeout(pull.timeout_seconds + _GRACE_SECONDS):
                await runtime.pull(pull.image, timeout_seconds=pull.timeout_seconds)
    except PullFailed as error:
        if clock.monotonic() - began >= pull.timeout_seconds:
            # If the process of the runtime is stopped, gRPC ends the call with a text of its own.
            return _timeout(pull)
        return Failure(error.reason, clean_message(error.message))
    except RuntimeUnreachable as error:
        return Failure("RuntimeError", clean_message(str(error)), unreachable=True)
    except TimeoutError:
        return _timeout(pull)
    except Exception as error:
        # An unexpected error of one image must not stop the pulls of others.
        log.exception("pull-crashed", image=pull.image)
        return Failure("RuntimeError", clean_message(f"{type(error).__name__}: {error}"))
    return None


def _timeout(pull: ImagePull) -> Failure:
    return Failure("Timeout", f"the pull took longer than {pull.timeout_seconds} s")


async def _log_progress(runtime: Runtime, pull: ImagePull, clock: Clock, log: Log) -> None:
    began, used_before = clock.monotonic(), 0
    while True:
        await clock.sleep(_PROGRESS_SECONDS)
        try:
            used = sum([filesystem.used_bytes for filesystem in await runtime.filesystems()])
        except Exception as error:
            log.info("pulling", image=pull.image, seconds=round(clock.monotonic() - began), error=str(error)[:200])
            continue
        # CRI reports no progress of a pull, so the log has the growth of the image file system, by all pulls together.
        grown = used - used_before if used_before else None
        used_before = used
        log.info("pulling", image=pull.image, seconds=round(clock.monotonic() - began), node_bytes_since_last=grown)
