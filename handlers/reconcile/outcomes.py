"""Handle items one by one, so that an item that fails keeps no other from being handled."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Final, TypeVar

from adapters.kubernetes.errors import Conflict, Gone, NotFound, Refused, Unavailable
from adapters.logs import get_logger

_log = get_logger()

Item = TypeVar("Item")

# Work is nested, for example policies and their WarmImages, and a process has 32 requests in flight.
_AT_ONCE: Final = 4


class _Logged(Refused):
    """A rejection that was already logged."""


class Overtaken(Unavailable):
    """Another writer was faster."""


class Outcomes:
    """The results of several items; `raise_problem` raises the problem for the caller."""

    def __init__(self) -> None:
        self.refused: Refused | None = None
        """The first rejection for good."""
        self.later: Unavailable | None = None
        """The first problem that a repeat may solve."""

    @contextmanager
    def item(self, what: str, **fields: str) -> Iterator[None]:
        """Handle one item; `what` and `fields` are for the log. Every error of the API server ends here."""
        try:
            yield
        except (NotFound, Conflict, Gone) as error:
            self.add_later(Overtaken(f"another writer came first: {error}"))
        except Refused as error:
            if not isinstance(error, _Logged):
                _log.error("refused", what=what, **fields, problem=str(error))
            self.refused = self.refused or error
        except Unavailable as error:
            self.add_later(error)
        except Exception as error:
            # A bug, which a repeat would meet again. It concerns this item alone.
            _log.exception("failed", what=what, **fields)
            self.refused = self.refused or _Logged(f"{what}: {error!r}")

    def add_later(self, error: Unavailable) -> None:
        """Add a problem that a repeat may solve."""
        if self.later is None or isinstance(self.later, Overtaken):
            self.later = error

    async def each(
        self,
        what: str,
        items: Collection[Item],
        work: Callable[[Item], Awaitable[object]],
        *,
        name: Callable[[Item], str] = str,
        group: Callable[[Item], str] = lambda _item: "",
        seconds: float | None = None,
    ) -> None:
        """Do `work` for each of the items, a few of each group at a time; `name` is for the log.

        Groups are namespaces: if the webhook of one hangs, only its own items wait for each other. After `seconds`, if
        given, the rest is left for later.
        """
        turns: defaultdict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(_AT_ONCE))

        async def one(item: Item) -> None:
            async with turns[group(item)]:
                with self.item(what, item=name(item)):
                    await work(item)

        try:
            async with asyncio.timeout(seconds):
                ended = await asyncio.gather(*map(one, items), return_exceptions=True)
        except TimeoutError:
            self.add_later(Unavailable(f"{what}: not all could be done in {seconds:g} seconds", retry_after_seconds=1))
            return
        for outcome in ended:
            if isinstance(outcome, BaseException):
                raise outcome

    @property
    def problem(self) -> Unavailable | Refused | None:
        """`Unavailable` where a repeat may solve something, else `Refused` where something was refused."""
        error = self.refused
        if self.later is not None or error is None:
            return self.later
        return _Logged(str(error), status=error.status, reason=error.reason)

    def raise_problem(self) -> None:
        """Raise the problem, if there is one."""
        if (problem := self.problem) is not None:
            raise problem
