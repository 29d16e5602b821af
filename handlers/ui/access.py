"""Decide who reads a page and what that reader may see, by reviews of the API server that are kept for seconds."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from adapters.clock import Clock
from adapters.kubernetes.access_reviews import Action, User, review_access, review_token
from adapters.kubernetes.client import Kubernetes
from adapters.kubernetes.errors import KubernetesError, Unavailable
from adapters.logs import get_logger
from adapters.outages import OutageLog
from handlers.ui.review_budgets import ReviewBudgets
from warmhook.api import GROUP
from warmhook.delivery_records import CONFIGMAP
from warmhook.inventory import Rights

FRESH_SECONDS: Final = 30.0
"""For so long an answer is used again, also a negative one."""
LAST_SECONDS: Final = 300.0
"""For so long an answer is used while the API server does not answer."""
TOKEN_MAX: Final = 16 * 1024
"""Characters of a token that is looked at."""
NAMESPACES_MAX: Final = 200
"""Namespaces that are asked about for a reader who may not see all; a reader with more names one."""
_KEPT_MAX: Final = 4096
_RIGHTS_MAX: Final = 32 * 1024
"""More than 100 readers with all that is asked about for each."""
_UNKNOWN_MAX: Final = 1024
_AT_ONCE, _UNKNOWN_AT_ONCE = 16, 4
_SECONDS: Final = 3.0
"""A page does not wait longer for one answer."""

_Answer = TypeVar("_Answer")


class Busy(Exception):
    """Too many reviews at once: the same request may succeed in a second."""


@dataclass(frozen=True, slots=True)
class _Kept(Generic[_Answer]):
    answer: _Answer
    at: float
    """On the monotonic clock."""


class _Answers(Generic[_Answer]):
    """Answers by question, at most so many; the one that was used the longest ago goes first."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: OrderedDict[Hashable, _Kept[_Answer]] = OrderedDict()

    def get(self, question: Hashable) -> _Kept[_Answer] | None:
        kept = self._kept.get(question)
        if kept is not None:
            self._kept.move_to_end(question)
        return kept

    def put(self, question: Hashable, answer: _Answer, now: float) -> None:
        self._kept[question] = _Kept(answer, now)
        self._kept.move_to_end(question)
        if len(self._kept) > self._most:
            self._kept.popitem(last=False)

    def drop(self, question: Hashable) -> None:
        self._kept.pop(question, None)


class Access:
    """Reviews tokens and rights. Tokens are kept as hashes only."""

    def __init__(self, kubernetes: Kubernetes, namespace: str, clock: Clock) -> None:
        """`namespace` is that of Warmhook."""
        self._kubernetes, self._namespace, self._clock = kubernetes, namespace, clock
        self._users: _Answers[User] = _Answers(_KEPT_MAX)
        self._wrong: _Answers[None] = _Answers(_UNKNOWN_MAX)
        """By themselves, so that many wrong tokens do not push out those of readers."""
        self._rights: _Answers[bool] = _Answers(_RIGHTS_MAX)
        self._budgets = ReviewBudgets(clock)
        self._turns, self._unknown_turns = asyncio.Semaphore(_AT_ONCE), asyncio.Semaphore(_UNKNOWN_AT_ONCE)
        self._outage = OutageLog(get_logger(), clock, "ui-not-reviewed")

    async def identify(self, token: str, *, fresh_seconds: float = FRESH_SECONDS) -> User | None:
        """Whose token it is; `None` if it is not valid. Raises `Busy`, `Unavailable` and `Refused`."""
        if not token or len(token) > TOKEN_MAX or not token.isascii() or not token.isprintable() or " " in token:
            return None
        question = hashlib.sha256(token.encode()).digest()
        if self._is_fresh(self._wrong.get(question), FRESH_SECONDS):
            return None
        known = self._users.get(question)
        if known is not None and self._is_fresh(known, fresh_seconds):
            return known.answer
        if not self._budgets.may_review(known.answer if known is not None else None):
            raise Busy
        try:
            turns = self._unknown_turns if known is None else self._turns
            user = await self._ask(turns, lambda: review_token(self._kubernetes, token))
        except Unavailable:
            if known is not None and self._is_fresh(known, LAST_SECONDS):
                return known.answer
            raise
        if user is None:
            self._users.drop(question)
            self._wrong.put(question, None, self._clock.monotonic())
        else:
            self._users.put(question, user, self._clock.monotonic())
        return user

    async def rights(self, user: User, namespaces: Sequence[str], *, fresh_seconds: float = FRESH_SECONDS) -> Rights:
        """What a user may see of these namespaces. Raises as `identify`."""
        nodes, deliveries, everything = await asyncio.gather(
            self._may(user, Action("list", "nodes"), fresh_seconds),
            self._may(user, Action("get", "configmaps", "", self._namespace, CONFIGMAP), fresh_seconds),
            self._may(user, Action("list", "warmimages", GROUP), fresh_seconds),
        )
        if everything:
            return Rights(None, nodes, deliveries)
        asked = namespaces[:NAMESPACES_MAX]
        allowed = await asyncio.gather(
            *(self._may(user, Action("list", "warmimages", GROUP, name), fresh_seconds) for name in asked)
        )
        seen = frozenset(name for name, may in zip(asked, allowed, strict=True) if may)
        return Rights(seen, nodes, deliveries)

    async def _may(self, user: User, action: Action, fresh_seconds: float) -> bool:
        question = (user, action)
        known = self._rights.get(question)
        if known is not None and self._is_fresh(known, fresh_seconds):
            return known.answer
        if known is not None and not known.answer and self._is_fresh(known, LAST_SECONDS):
            # Most are of this kind, and nothing is shown by them that may not be.
            if not self._budgets.may_review_again():
                return False
        elif not self._budgets.may_review(user):
            raise Busy
        try:
            answer = await self._ask(self._turns, lambda: review_access(self._kubernetes, user, action))
        except Unavailable:
            if known is not None and self._is_fresh(known, LAST_SECONDS):
                return known.answer
            raise
        self._rights.put(question, answer, self._clock.monotonic())
        return answer

    async def _ask(self, turns: asyncio.Semaphore, review: Callable[[], Awaitable[_Answer]]) -> _Answer:
        try:
            async with asyncio.timeout(_SECONDS), turns:
                answer = await review()
        except TimeoutError:
            problem = f"no answer to a review within {_SECONDS:g} seconds"
            self._outage.failed(problem=problem)
            raise Unavailable(problem) from None
        except KubernetesError as error:
            self._outage.failed(problem=str(error))
            raise
        self._outage.recovered()
        return answer

    def _is_fresh(self, kept: _Kept[_Answer] | None, seconds: float) -> bool:
        return kept is not None and self._clock.monotonic() - kept.at < seconds
