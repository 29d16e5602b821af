"""Pull an image once, within the time limit of its lines, and log the progress every half minute.

The limit counts from the last progress if containerd shows what it downloads, and from the start of the pull otherwise.
Unpacking shows no progress, so it has the whole limit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from adapters.tasks import in_background
from nodeagent.context import Context
from warmhook.node_report import clean_message
from warmhook.ports import Credentials, NotContainerd, PullFailed, RuntimeUnreachable
from warmhook.pull_failures import FailureReason
from warmhook.pull_progress import Downloaded
from warmhook.pull_queue import ImagePull
from warmhook.sizes import format_bytes
from warmhook.warmimages import LONGEST_TIMEOUT_SECONDS

_LOG_SECONDS: Final = 30.0
_LOOK_SECONDS: Final = 5.0
# A runtime ends a pull at its time limit; this is for a runtime that does not.
_GRACE_SECONDS: Final = 15.0


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a pull failed."""

    reason: FailureReason
    message: str
    unreachable: bool = False
    """Whether the runtime itself did not answer."""
    retry_after_seconds: float | None = None
    """How long a registry that limits its requests wants to be left alone."""


async def pull_image(
    context: Context, pull: ImagePull, credentials: Credentials | None, progressed: Callable[[int], None]
) -> Failure | None:
    """Pull; `None` if the runtime reports success. Cancelling cancels the pull at the runtime.

    `progressed` is called with the bytes that were downloaded for this pull, if they can be seen.
    """
    attempt = _Attempt(context, pull, progressed)
    try:
        visible = await attempt.look()
        attempt.limit_seconds = LONGEST_TIMEOUT_SECONDS if visible else pull.timeout_seconds
        async with asyncio.timeout(pull.timeout_seconds + (0 if visible else _GRACE_SECONDS)) as deadline:
            work = attempt.follow(deadline) if visible else attempt.log_growth()
            async with in_background(work, f"progress of {pull.image}"):
                await context.runtime.pull(pull.image, timeout_seconds=attempt.limit_seconds, credentials=credentials)
    except PullFailed as error:
        # If the process of the runtime is stopped, gRPC ends the call at its limit with a text of its own.
        late = attempt.seconds >= attempt.limit_seconds
        if late:
            return attempt.timed_out()
        return Failure(error.reason, clean_message(error.message), retry_after_seconds=error.retry_after_seconds)
    except RuntimeUnreachable as error:
        return Failure("RuntimeError", clean_message(str(error)), unreachable=True)
    except TimeoutError:
        return attempt.timed_out()
    except Exception as error:
        # An unexpected error of one image must not stop the pulls of others.
        context.log.exception("pull-crashed", image=pull.image)
        return Failure("RuntimeError", clean_message(f"{type(error).__name__}: {error}"))
    return None


class _Attempt:
    """The progress of one pull."""

    def __init__(self, context: Context, pull: ImagePull, progressed: Callable[[int], None]) -> None:
        self._context, self._pull, self._progressed = context, pull, progressed
        self._clock = context.clock
        self._began = self._clock.monotonic()
        self._downloaded = Downloaded()
        self.limit_seconds = pull.timeout_seconds
        """The limit for all of it; without progress the one of the lines counts."""

    @property
    def seconds(self) -> float:
        """Since the start."""
        return self._clock.monotonic() - self._began

    def timed_out(self) -> Failure:
        """The failure of a pull that was stopped at a limit."""
        if self.seconds >= self.limit_seconds:
            return Failure("Timeout", f"the pull took longer than {self.limit_seconds} s")
        done = format_bytes(self._downloaded.bytes)
        return Failure("Timeout", f"no progress for {self._pull.timeout_seconds} s, after {done} were downloaded")

    async def look(self) -> bool:
        """Note what is being downloaded now; false if that cannot be seen."""
        try:
            async with asyncio.timeout(_LOOK_SECONDS):
                downloads = await self._context.containerd.downloads(self._pull.image)
        except (NotContainerd, RuntimeUnreachable, TimeoutError):
            return False
        self._downloaded = self._downloaded.after(downloads)
        return True

    async def follow(self, deadline: asyncio.Timeout) -> None:
        """Move the deadline with each progress, up to the longest limit of a pull, until cancelled."""
        limit_seconds, loop = self._pull.timeout_seconds, asyncio.get_running_loop()
        last = loop.time() + LONGEST_TIMEOUT_SECONDS
        step = min(_LOOK_SECONDS, limit_seconds / 4)
        logged_at, before = self._began, 0
        while True:
            await self._clock.sleep(step)
            await self.look()
            if self._downloaded.bytes > before:
                before = self._downloaded.bytes
                deadline.reschedule(min(last, loop.time() + limit_seconds))
                self._progressed(before)
            if self._clock.monotonic() >= logged_at + _LOG_SECONDS:
                logged_at = self._clock.monotonic()
                self._log(bytes=before, total_bytes=self._pull.size_bytes or None)

    async def log_growth(self) -> None:
        """Log the growth of the image file system, by all pulls together: CRI shows no progress of one pull."""
        used_before = 0
        while True:
            await self._clock.sleep(_LOG_SECONDS)
            try:
                used = sum([filesystem.used_bytes for filesystem in await self._context.runtime.filesystems()])
            except Exception as error:
                self._log(error=str(error)[:200])
                continue
            grown = used - used_before if used_before else None
            used_before = used
            self._log(node_bytes_since_last=grown)

    def _log(self, **fields: object) -> None:
        self._context.log.info("pulling", image=self._pull.image, seconds=round(self.seconds), **fields)
