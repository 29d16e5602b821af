"""Fetch blobs that were pushed before their manifest, while the node has nothing else to do.

When the manifest comes, its transfer finds them. If none comes, containerd drops them with their lease.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias

from nodeagent.context import Context
from nodeagent.node_state import NodeState
from nodeagent.peers.early_blob import EARLY_LEASE, EarlyOrder, hint_of
from nodeagent.peers.exchange import Fetched
from nodeagent.peers.sources import NoSource
from nodeagent.pull_credentials import Found
from warmhook.desired_lines import DesiredLine
from warmhook.hints import Early, NotAHint, early_key, read_early
from warmhook.images import Reference, parse_reference
from warmhook.localhosts import is_local_host
from warmhook.node_report import clean_message
from warmhook.ports import ContentStore, Credentials, NotContainerd, PullFailed, RuntimeUnreachable
from warmhook.warmimages import ObjectKey

_LOOK_SECONDS: Final = 1.0
_IDLE_SECONDS: Final = 60.0
_AGAIN_SECONDS: Final = 10.0
"""After a blob could not be fetched."""
_PAST_SECONDS: Final = 60.0
"""So long after a push has ended its lease stays, and what is being fetched goes on: the image needs both."""
_STALL_SECONDS: Final = 1.5
_LIMIT_SECONDS: Final = 900.0
"""For one blob."""
_SHA256: Final = re.compile(r"sha256:[0-9a-f]{64}")


class FetchBlob(Protocol):
    """Fetches one blob."""

    async def __call__(self, order: EarlyOrder, digest: str, size_bytes: int, fetched: Fetched) -> None:
        """`fetched` grows. Raises `NoSource`, `NotContainerd`, `RuntimeUnreachable` and `PullFailed`."""


FindCredentials: TypeAlias = Callable[[str, tuple[ObjectKey, ...], Callable[[], None]], Awaitable[Found | None]]
"""As `PullCredentials.find`."""


@dataclass(frozen=True, slots=True)
class _Push:
    """A push that has not ended, to the repository of a line."""

    wanted: DesiredLine
    image: Reference
    early: Early


@dataclass(slots=True)
class _Fetch:
    """A running fetch."""

    task: asyncio.Task[None]
    fetched: Fetched
    before: int = 0
    """The bytes that had come when it was looked at last."""
    moved_at: float = float("-inf")

    def moves(self, now: float) -> bool:
        """Whether something came lately."""
        known, self.before = self.before, self.fetched.peer_bytes + self.fetched.registry_bytes
        if self.before > known:
            self.moved_at = now
        return now - self.moved_at < _STALL_SECONDS


class EarlyFetches:
    """The blobs of pushes that have not ended, of one node."""

    def __init__(
        self,
        context: Context,
        state: NodeState,
        credentials: FindCredentials,
        fetch: FetchBlob,
        content: ContentStore,
    ) -> None:
        self._context, self._state, self._credentials = context, state, credentials
        self._fetch, self._content = fetch, content
        self._clock, self._log = context.clock, context.log
        self._pushes: Mapping[str, _Push] = {}
        """By line key."""
        self._past: dict[str, tuple[_Push, float]] = {}
        """Pushes that have ended or are not wanted, and until when they still count; by line key."""
        self._malformed: Mapping[str, str] = {}
        self._running: dict[tuple[str, str], _Fetch] = {}
        """By line key and digest."""
        self._not_before: dict[tuple[str, str], float] = {}
        """When a blob that was tried may be tried again; infinity for one that is there."""
        # What an agent before left is dropped too.
        self._leases_at = self._clock.monotonic() + _PAST_SECONDS
        self.wake = asyncio.Event()
        """Set if other blobs than before may be due."""

    def select(self, data: Mapping[str, str], lines: Mapping[str, DesiredLine]) -> Mapping[str, str]:
        """Take the blobs for these lines from the data of the ConfigMap.

        Returns why some cannot be used, by their key, only of those that were not malformed in the same way before.
        """
        pushes, malformed = dict[str, _Push](), dict[str, str]()
        for key, wanted in lines.items():
            if (text := data.get(early_key(key))) is None or wanted.line.idle:
                continue
            try:
                early = read_early(text)
            except NotAHint as error:
                malformed[early_key(key)] = f"early blobs of {wanted.line.image}: {error}"
                continue
            image = parse_reference(wanted.line.image)
            if (early.host, early.repository) == (image.canonical.host, image.canonical.repository):
                pushes[key] = _Push(wanted, image, early)
        now, until = self._clock.monotonic(), self._clock.monotonic() + _PAST_SECONDS
        gone = {key: (push, until) for key, push in self._pushes.items() if key not in pushes}
        past = {key: past for key, past in self._past.items() if past[1] > now}
        self._pushes, self._past = pushes, past | gone
        if gone:
            self._leases_at = until
        self._not_before = {blob: at for blob, at in self._not_before.items() if blob[0] in pushes}
        self.wake.set()
        known, self._malformed = self._malformed, malformed
        return {key: why for key, why in malformed.items() if known.get(key) != why}

    def of_line(self, key: str) -> Early | None:
        """What this node serves before the push to the repository of a line ends."""
        push = self._pushes.get(key)
        return push.early if push is not None and self._valid(push) else None

    async def run(self) -> None:
        """Fetch until cancelled; cancelling cancels the fetches."""
        async with asyncio.TaskGroup() as group:
            while True:
                for (key, _), running in self._running.items():
                    moves = running.moves(self._clock.monotonic())
                    if not self._may_run(key, moves=moves) and not running.task.cancelling():
                        running.task.cancel()
                for key, push, digest in list(self._due()):
                    fetched = Fetched()
                    task = group.create_task(self._run_one(key, push, digest, fetched), name=f"early {digest}")
                    self._running[key, digest] = _Fetch(task, fetched)
                    task.add_done_callback(lambda _task, blob=(key, digest): self._ended(blob))  # type: ignore[misc]  # mypy cannot infer defaults of lambdas
                await self._end_leases()
                busy = self._running or any(self._valid(push) for push in self._pushes.values())
                await self._clock.wait(self.wake, _LOOK_SECONDS if busy else _IDLE_SECONDS)

    def _valid(self, push: _Push) -> bool:
        return push.early.expires_at > self._clock.utcnow().timestamp()

    def _may_run(self, key: str, *, moves: bool) -> bool:
        """Whether a running fetch goes on: pulls of other images go first, and one of its repository needs the blob.

        When the push has ended, the transfer of its image waits for a fetch to which something comes, and replaces one
        to which nothing does.
        """
        push = self._pushes.get(key)
        past, until = self._past.get(key, (None, 0.0))
        of = push or past
        if of is None or self._state.disk.low:
            return False
        running = {parse_reference(image).canonical.name for image in self._state.running}
        lasts = self._valid(push) if push is not None else self._clock.monotonic() < until
        return running <= {of.image.canonical.name} and (lasts or bool(running)) and (push is not None or moves)

    def _due(self) -> Iterator[tuple[str, _Push, str]]:
        """Line keys, pushes and digests of the blobs to fetch now."""
        disk, now = self._state.disk, self._clock.monotonic()
        if self._state.running or disk.low or disk.on_probation:
            return
        free = self._context.settings.parallel_pulls - len(self._running)
        room = disk.room(()).image_bytes - sum(self._size(*blob) for blob in self._running)
        for key, push in self._pushes.items():
            if not self._valid(push) or self._is_refused(push):
                continue
            for digest, size_bytes in push.early.blobs.items():
                blob, fits = (key, digest), size_bytes <= room and _SHA256.fullmatch(digest)
                if free <= 0 or blob in self._running or not fits or now < self._not_before.get(blob, now):
                    continue
                free, room = free - 1, room - size_bytes
                yield key, push, digest

    def _size(self, key: str, digest: str) -> int:
        push = self._pushes.get(key)
        return push.early.blobs.get(digest, 0) if push is not None else 0

    def _is_refused(self, push: _Push) -> bool:
        return not self._context.settings.allow_local_registries and is_local_host(push.image.host)

    async def _run_one(self, key: str, push: _Push, digest: str, fetched: Fetched) -> None:
        self._not_before[key, digest] = self._clock.monotonic() + _AGAIN_SECONDS
        problem = ""
        try:
            async with asyncio.timeout(_LIMIT_SECONDS):
                order = EarlyOrder(key, push.image, "", hint_of(push.early), await self._find_credentials(push))
                await self._fetch(order, digest, push.early.blobs[digest], fetched)
        except NoSource:
            problem = "nobody has it"
        except TimeoutError:
            problem = f"not complete after {_LIMIT_SECONDS:.0f} s"
        except (NotContainerd, RuntimeUnreachable, PullFailed) as error:
            problem = clean_message(str(error))
        except Exception:
            # An unexpected error of one blob must not stop the agent.
            self._log.exception("early-blob-crashed", image=push.image.name)
            return
        finally:
            self._state.disk.filled(fetched.peer_bytes + fetched.registry_bytes)
            self._context.metrics.fetched("peers", fetched.peer_bytes)
            self._context.metrics.fetched("registry", fetched.registry_bytes)
        if not problem and (key, digest) in self._not_before:
            self._not_before[key, digest] = float("inf")
        self._log.info(
            "early-blob",
            repository=push.image.name,
            digest=digest,
            bytes_from_peers=fetched.peer_bytes,
            bytes_from_registry=fetched.registry_bytes,
            seconds=round(fetched.seconds, 3),
            **({"problem": problem} if problem else {}),
        )

    async def _find_credentials(self, push: _Push) -> tuple[Credentials, ...]:
        found = None
        while found is None:
            found = await self._credentials(push.wanted.line.image, push.wanted.secrets, lambda: None)
        return found.credentials

    def _ended(self, blob: tuple[str, str]) -> None:
        self._running.pop(blob, None)
        self.wake.set()

    async def _end_leases(self) -> None:
        """Delete leases of pushes that have ended, when no transfer needs them any more."""
        if self._clock.monotonic() < self._leases_at or self._state.running or self._running:
            return
        self._leases_at = self._clock.monotonic() + _PAST_SECONDS
        lasting = tuple(f"{EARLY_LEASE}{key}-" for key, push in self._pushes.items() if self._valid(push))
        try:
            for lease in await self._content.leases():
                if lease.startswith(EARLY_LEASE) and not lease.startswith(lasting):
                    await self._content.delete_lease(lease)
        except RuntimeUnreachable:
            return
        except NotContainerd:
            pass
        if not self._pushes:
            self._leases_at = float("inf")
