"""Limit reviews, so that no reader takes those of others and nobody floods the API server."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from adapters.clock import Budget, Clock
from adapters.kubernetes.access_reviews import User

_UNKNOWN_BURST, _UNKNOWN_PER_SECOND = 20, 5.0
"""Of tokens that were not valid here before: a flood of wrong ones costs the API server no more."""
_KNOWN_BURST, _KNOWN_PER_SECOND = 1000, 100.0
"""For all readers whose token was valid."""
_OWNER_BURST, _OWNER_PER_SECOND = 450, 40.0
"""For those of one owner: a first page may need more than 200."""
_AGAIN_BURST, _AGAIN_PER_SECOND = 200, 20.0
"""Of rights that a reader did not have a short time ago."""
_OWNERS_MAX: Final = 1024
_SERVICE_ACCOUNT: Final = "system:serviceaccount:"


class ReviewBudgets:
    """How many reviews may be asked for now."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._unknown = Budget(clock, _UNKNOWN_BURST, 1 / _UNKNOWN_PER_SECOND)
        self._known = Budget(clock, _KNOWN_BURST, 1 / _KNOWN_PER_SECOND)
        self._again = Budget(clock, _AGAIN_BURST, 1 / _AGAIN_PER_SECOND)
        self._owners: OrderedDict[str, Budget] = OrderedDict()

    def may_review(self, user: User | None) -> bool:
        """Whether one more for this reader may be asked for, which then counts; `None`: the token is unknown."""
        if user is None:
            return self._unknown.try_spend()
        return self._owner(user).try_spend() and self._known.try_spend()

    def may_review_again(self) -> bool:
        """As `may_review`, of a right that a reader did not have: until then it does not have it."""
        return self._again.try_spend()

    def _owner(self, user: User) -> Budget:
        owner = _owner_of(user.name)
        budget = self._owners.get(owner)
        if budget is None:
            budget = self._owners[owner] = Budget(self._clock, _OWNER_BURST, 1 / _OWNER_PER_SECOND)
            if len(self._owners) > _OWNERS_MAX:
                self._owners.popitem(last=False)
        self._owners.move_to_end(owner)
        return budget


def _owner_of(name: str) -> str:
    """Who can make more such users: of a ServiceAccount its namespace."""
    return name.rpartition(":")[0] if name.startswith(_SERVICE_ACCOUNT) else name
