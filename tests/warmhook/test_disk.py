"""Losses hold the pulls of a node back, longer each time, and never without an end."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from warmhook.disk import EMPTY, FIRST_HOLD_SECONDS, LONGEST_HOLD_SECONDS, SPACED_SECONDS, after_loss, is_low


def test_two_losses_within_an_hour_hold_nothing_and_the_third_does() -> None:
    hold = after_loss(after_loss(EMPTY, 0), 1000)
    assert hold.next_start(0, 1000) <= 1000
    assert after_loss(hold, 2000).until == 2000 + FIRST_HOLD_SECONDS
    assert after_loss(hold, 4500).until == 0


def test_after_a_hold_pulls_are_spaced_and_one_loss_begins_a_longer_one() -> None:
    hold = EMPTY
    for now in (0, 1, 2):
        hold = after_loss(hold, now)
    after = hold.until + 1
    assert hold.next_start(after, after) == after + SPACED_SECONDS
    longer = after_loss(hold, after)
    assert longer.until == after + 2 * FIRST_HOLD_SECONDS
    assert hold.next_start(0, hold.probation_until) <= hold.probation_until


@given(st.lists(st.floats(0, 1e5), max_size=50).map(sorted))
def test_no_hold_is_longer_than_its_bound(times: list[float]) -> None:
    hold = EMPTY
    for now in times:
        hold = after_loss(hold, now)
        assert hold.until <= now + LONGEST_HOLD_SECONDS
        assert len(hold.losses) < 3


def test_the_free_share_must_rise_a_little_before_pulls_start_again() -> None:
    assert is_low(19.9, 20, was_low=False)
    assert not is_low(20.1, 20, was_low=False)
    assert is_low(20.1, 20, was_low=True)
    assert not is_low(21.1, 20, was_low=True)


def test_a_disk_that_cannot_be_seen_and_an_absent_limit_hold_nothing() -> None:
    assert not is_low(None, 20, was_low=True)
    assert not is_low(0, 0, was_low=True)
