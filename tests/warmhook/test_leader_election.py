"""There is at most one leader, whatever the clocks and whenever a process stops."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from warmhook.leader_election import LEASE_SECONDS, ElectionState, Lease


@dataclass
class Store:
    """A Lease that is written only over the version that was seen."""

    lease: Lease | None = None
    writes: int = 0

    def write(self, holder: str, over: Lease | None) -> Lease | None:
        if (over and over.resource_version) != (self.lease and self.lease.resource_version):
            return None
        self.writes += 1
        self.lease = Lease(holder, str(self.writes))
        return self.lease


@dataclass
class Candidate:
    offset: float
    """Its monotonic clock began at another time than the others'."""
    election: ElectionState = field(default_factory=lambda: ElectionState(""))

    def step(self, store: Store, now: float, delay: float) -> None:
        """One look at the Lease, and a write that takes effect `delay` seconds after it was decided."""
        began = now + self.offset
        self.election = self.election.observed(store.lease, began)
        if self.election.may_write(began):
            written = store.write(self.election.identity, self.election.lease)
            arrived = began + delay
            self.election = self.election.wrote(written, began, arrived) if written else self.election.overruled()


steps = st.lists(
    st.tuples(st.integers(0, 2), st.floats(0.1, 30), st.floats(0, 9)),
    max_size=60,
)


@given(steps, st.lists(st.floats(-1000, 1000), min_size=3, max_size=3))
def test_there_are_never_two_holders(taken: list[tuple[int, float, float]], offsets: list[float]) -> None:
    store, now = Store(), 0.0
    candidates = [Candidate(offset, ElectionState(str(number))) for number, offset in enumerate(offsets)]
    for who, wait, delay in taken:
        now += wait
        candidates[who].step(store, now, delay)
        assert sum(it.election.leads(now + it.offset) for it in candidates) <= 1


def test_a_lease_that_is_given_back_is_free_at_once() -> None:
    held = ElectionState("a").observed(Lease("b", "1"), 0)
    assert not held.may_write(LEASE_SECONDS - 0.1)
    assert held.observed(Lease("", "2"), 1).may_write(1)


def test_a_lease_that_nobody_renews_is_free_once_it_was_seen_for_as_long_as_it_lasts() -> None:
    held = ElectionState("a").observed(Lease("b", "1"), 0)
    assert held.observed(Lease("b", "1"), 10).may_write(LEASE_SECONDS)
    assert not held.observed(Lease("b", "2"), 10).may_write(LEASE_SECONDS)


def test_a_holder_that_cannot_renew_stops_before_anybody_may_take_over() -> None:
    began, arrived = 100.0, 104.0
    holder = ElectionState("a").wrote(Lease("a", "1"), began, arrived)
    other = ElectionState("b").observed(Lease("a", "1"), began)
    assert holder.leads(began)
    assert not holder.leads(began + LEASE_SECONDS - 3)
    assert not other.may_write(began + LEASE_SECONDS - 0.1)


def test_a_write_that_came_too_late_ends_the_lead() -> None:
    holder = ElectionState("a").wrote(Lease("a", "1"), 0, 0)
    assert holder.leads(1)
    assert not holder.overruled().leads(1)
    assert not holder.observed(Lease("b", "2"), 1).leads(1)
