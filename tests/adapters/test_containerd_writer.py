"""A write ends its call to containerd in every case, since an open call keeps others from the blob."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, cast

from adapters.containerd_calls import Calls
from adapters.containerd_writer import BlobWriter
from tests.support.instant import instant


class SilentCall:
    """A call to a containerd that does not answer any more."""

    cancelled = False

    async def done_writing(self) -> None:
        pass

    async def read(self) -> Any:
        await asyncio.Event().wait()

    def cancel(self) -> None:
        self.cancelled = True


@instant
async def test_a_write_that_is_cancelled_again_while_it_ends_leaves_no_open_call() -> None:
    call = SilentCall()
    closing = asyncio.create_task(BlobWriter(cast("Calls", None), call).close())
    await asyncio.sleep(1)
    closing.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await closing
    assert call.cancelled


@instant
async def test_a_write_ends_also_if_containerd_does_not_answer() -> None:
    call = SilentCall()
    async with asyncio.timeout(10):
        await BlobWriter(cast("Calls", None), call).close()
    assert call.cancelled
