"""Fetch the blobs of an image before its pull; a fetch to which nothing comes keeps no slot.

Two nodes may wait for each other with different images, so a fetch that has parents gives up its slot until their first
byte comes. Then it takes one again, or ends and is started again in its turn. Whatever goes wrong, the runtime pulls
what is missing.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Collection, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol

from adapters.tasks import in_background
from nodeagent.context import Context
from nodeagent.peers.exchange import Fetched
from nodeagent.peers.hints import Hints, LineHint
from nodeagent.peers.results import Account, Results
from warmhook.hints import Hint
from warmhook.node_report import clean_message
from warmhook.ports import Credentials, NotContainerd, PullFailed, RuntimeUnreachable
from warmhook.pull_queue import ImagePull
from warmhook.warmimages import LONGEST_TIMEOUT_SECONDS

_TRIED_MAX: Final = 3
"""Digests of one image that are fetched, one after the other."""
SLOT_SECONDS: Final = 2.0
"""A fetch keeps its slot so long before the first byte."""


class Peers(Protocol):
    """The other nodes, as a pull uses them."""

    async def fetch(
        self, found: LineHint, credentials: tuple[Credentials, ...], progressed: Callable[[Fetched], None]
    ) -> Fetched:
        """Fetch the blobs of an image; `progressed` is called when something came.

        Raises what `ContentStore` raises, and `PullFailed`.
        """

    async def keep(self, found: LineHint) -> None:
        """While the runtime pulls what was not fetched, keep it for the children of this node."""

    def pulled(self, found: LineHint) -> None:
        """This node has the image, and asks its parents for it no more."""


@dataclass(frozen=True, slots=True)
class Slot:
    """The slot of a pull."""

    give_up: Callable[[], bool]
    """Let other pulls have it; false if the pull must keep it."""
    take: Callable[[], bool]
    """Take one again; false if there is none."""
    progressed: Callable[[int], None]
    """Record the bytes that have come."""


@dataclass(frozen=True, slots=True)
class Preparation:
    """What came before a pull."""

    found: LineHint | None = None
    """`None`: there is no hint."""
    fetched: Fetched | None = None
    """`None`: nothing was fetched by the hint."""
    message: str = ""
    """Why the registry has to give what other nodes should have given, for people."""

    def log_fields(self, unpack_seconds: float) -> dict[str, object]:
        """For the log line of the pull."""
        if self.fetched is None:
            return {}
        return {
            "bytes_from_peers": self.fetched.peer_bytes,
            "bytes_from_registry": self.fetched.registry_bytes,
            "transfer_seconds": round(self.fetched.seconds, 3),
            "unpack_seconds": round(unpack_seconds, 3),
            "parents": ",".join(sorted(self.fetched.parents)),
        }


class Fetches:
    """The fetches of one node."""

    def __init__(self, context: Context, peers: Peers, hints: Hints, results: Results) -> None:
        self._peers, self._hints, self._results = peers, hints, results
        self._clock, self._log = context.clock, context.log
        self._late: dict[str, Preparation] = {}
        """By image a fetch that ended without a slot."""
        self._failed: dict[str, set[tuple[str, Hint]]] = {}
        """By image the digests and hints by which not all of it came: the runtime pulls without them."""

    def keep(self, images: Collection[str]) -> None:
        """Forget other images."""
        self._late = {image: late for image, late in self._late.items() if image in images}
        self._failed = {image: hints for image, hints in self._failed.items() if image in images}

    async def before_pull(
        self, pull: ImagePull, versions: Collection[str], credentials: tuple[Credentials, ...], slot: Slot
    ) -> Preparation | None:
        """Fetch by a hint of the image, if it has one; `versions` are the lines that this is for.

        `None`: there is no slot now, and the next call goes on.
        """
        late = self._late.pop(pull.image, None)
        if late is not None and late.found is not None and not self._hints.is_superseded(late.found):
            return late
        prepared = Preparation(self._hints.of_image(pull.image))
        while (found := self._next(pull.image)) is not None:
            account = self._results.account(pull, versions)
            run = _Run(account, slot, partial(self._is_over, found), waits=bool(found.hint.parents))
            try:
                fetched = await self._run(run, found, pull, credentials)
            except _Ended:
                return None
            except asyncio.CancelledError:
                if self._next(pull.image) == found:
                    # It gave way to others. Next time the runtime pulls, which keeps parts of layers.
                    self._failed.setdefault(pull.image, set()).add((found.digest, found.hint))
                raise
            prepared = Preparation(found, fetched, self._results.fetched(found, fetched))
            if not fetched.complete:
                self._failed.setdefault(pull.image, set()).add((found.digest, found.hint))
            if not run.has_slot and not slot.take():
                self._late[pull.image] = prepared
                return None
            if fetched.complete or fetched.peer_bytes or fetched.registry_bytes:
                break
        return prepared

    def _is_over(self, found: LineHint, *, moved: bool) -> bool:
        """Whether the hint does not count any more; `moved`: something came by it.

        Before that other parents count at once: those of an earlier plan may not know this node any more.
        """
        now = self._hints.of_line(found.key)
        others = not moved and now is not None and now.hint.parents != found.hint.parents
        return others or self._hints.is_superseded(found)

    def _next(self, image: str) -> LineHint | None:
        """The hint to fetch by. After one by which nothing came, one of a line that wants another digest.

        Anybody may want an image with a digest that nobody has.
        """
        failed = self._failed.get(image, set())
        useful = [found for found in self._hints.all_of_image(image) if _is_useful(found) and not found.line.idle]
        tried = {found.digest for found in useful if (found.digest, found.hint) in failed}
        return next((found for found in useful if found.digest not in tried), None) if len(tried) < _TRIED_MAX else None

    @contextlib.asynccontextmanager
    async def pulling(self, prepared: Preparation) -> AsyncIterator[None]:
        """While the runtime pulls."""
        found, fetched = prepared.found, prepared.fetched
        if found is None or not _is_useful(found) or (fetched is not None and fetched.complete):
            yield
            return
        async with in_background(self._peers.keep(found), f"keep {found.line.image}"):
            yield

    def pulled(self, prepared: Preparation, versions: Collection[str], seconds: float) -> None:
        """The pull has succeeded, in so many seconds."""
        if prepared.fetched is not None:
            self._results.pulled(versions, prepared.fetched, seconds)
        if prepared.found is not None:
            self._peers.pulled(prepared.found)

    async def _run(self, run: _Run, found: LineHint, pull: ImagePull, credentials: tuple[Credentials, ...]) -> Fetched:
        """What came, whatever went wrong. Raises `_Ended`."""
        try:
            async with asyncio.timeout(LONGEST_TIMEOUT_SECONDS):
                return await run.follow(self._peers.fetch(found, credentials, run.progressed), pull.timeout_seconds)
        except TimeoutError:
            why = f"no progress for {pull.timeout_seconds} s"
        except (NotContainerd, RuntimeUnreachable, PullFailed) as error:
            # The pull finds the same, and says it.
            why = clean_message(str(error))
        except _Ended:
            raise
        except Exception as error:
            self._log.exception("transfer-crashed", image=pull.image)
            why = type(error).__name__
        run.fetched.left = why
        return run.fetched


def _is_useful(found: LineHint) -> bool:
    """Whether the image comes from other nodes or goes to some."""
    return bool(found.digest and (found.hint.parents or found.hint.children))


class _Ended(Exception):
    """Bytes came and there was no slot, or the hint does not count any more: the pull is started again in its turn."""


class _Run:
    """One fetch, with or without a slot."""

    def __init__(self, account: Account, slot: Slot, is_over: Callable[..., bool], *, waits: bool) -> None:
        """`waits`: the first byte may take long."""
        self._account, self._slot, self._is_over, self._waits = account, slot, is_over, waits
        self.has_slot = True
        self.fetched = Fetched()
        """So far."""
        self._moved = asyncio.Event()

    def progressed(self, fetched: Fetched) -> None:
        """Something came."""
        self.fetched = fetched
        self._moved.set()

    async def follow(self, work: Coroutine[Any, Any, Fetched], limit_seconds: float) -> Fetched:
        """The result of `work`. Raises `TimeoutError` after so long without a byte, and `_Ended`."""
        loop, task = asyncio.get_running_loop(), asyncio.create_task(work, name="fetch")
        moved_at, before = loop.time(), 0
        try:
            while not task.done():
                await self._step(task)
                if self._is_over(moved=self._moved.is_set()):
                    raise _Ended
                if self._bytes > before:
                    moved_at, before = loop.time(), self._bytes
                    self._slot.progressed(before)
                    self._account.update(self.fetched)
                elif loop.time() >= moved_at + limit_seconds:
                    raise TimeoutError
            self.fetched = task.result()
        finally:
            task.cancel()
            await asyncio.wait((task,))
            self._account.update(self.fetched, ended=True)
        return self.fetched

    @property
    def _bytes(self) -> int:
        return self.fetched.peer_bytes + self.fetched.registry_bytes

    async def _step(self, task: asyncio.Task[Fetched]) -> None:
        """Wait a while; change between having a slot and having none."""
        if self.has_slot:
            await asyncio.wait((task,), timeout=SLOT_SECONDS)
            if self._waits and not self._moved.is_set() and not task.done():
                self.has_slot = not self._slot.give_up()
            return
        moved = asyncio.create_task(self._moved.wait(), name="first byte")
        await asyncio.wait((task, moved), timeout=SLOT_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        moved.cancel()
        if self._moved.is_set():
            self.has_slot = self._slot.take()
            if not self.has_slot:
                raise _Ended
