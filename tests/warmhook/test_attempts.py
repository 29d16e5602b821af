"""A failed pull is tried again soon, then seldom, and a line that keeps failing stays failed."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.warmhook.test_pull_queue import a_line, wanted
from warmhook.attempts import (
    EVICTED_SECONDS,
    NO_ATTEMPTS,
    PERMANENT,
    RETRY_RULES,
    RETRY_STEP_SECONDS,
    TRANSIENT,
    Attempts,
    after_removal,
    line_report,
    with_failure,
)
from warmhook.pull_failures import ERROR_TEXTS, FailureReason


@given(
    st.integers(0, 100),
    st.integers(0, 100),
    st.floats(0, 1),
    st.floats(0, 1e6),
    st.sampled_from(["Network", "NotFound", "Unauthorized", "Timeout"]),
)
def test_a_back_off_is_never_longer_than_its_bound(
    failed: int, limit: int, random: float, now: float, reason: FailureReason
) -> None:
    it = wanted(a_line(backoff_limit=limit))
    after = with_failure(Attempts(failed), it, reason, "reset", now, random)
    wait = after.due_at - now
    rule = PERMANENT if reason in ("NotFound", "Unauthorized") else TRANSIENT
    assert after.failed == failed + 1
    assert rule.first_seconds / 2 <= round(wait, 3) <= rule.longest_seconds * 1.05 + RETRY_STEP_SECONDS
    assert after.exhausted(it) == (failed + 1 > limit)
    if after.exhausted(it):
        assert wait >= rule.failed_seconds * 0.94
        assert after.due_at % RETRY_STEP_SECONDS == 0


@pytest.mark.parametrize("reason", ["NotFound", "Unauthorized", "NotRunnable", "PlatformMissing", "Refused"])
def test_a_permanent_failure_is_tried_once_a_day_in_the_end(reason: FailureReason) -> None:
    waits = _waits(reason, failures=12)
    assert waits[:5] == [300, 600, 1200, 2400, 4800]
    assert waits[9:] == [86400, 86400, 86400]


@pytest.mark.parametrize("reason", ["Network", "Timeout", "RuntimeError"])
def test_a_transient_failure_is_tried_every_five_minutes_for_ever(reason: FailureReason) -> None:
    assert _waits(reason, failures=12) == [300] * 12


def test_a_line_does_not_wait_for_a_rate_limit_because_its_registry_does() -> None:
    assert _waits("RateLimited", failures=3) == [0, 0, 0]


def test_every_reason_that_a_pull_can_fail_for_has_a_rule() -> None:
    assert {row.reason for row in ERROR_TEXTS} | {"RuntimeError", "Refused"} == RETRY_RULES.keys()


def _waits(reason: FailureReason, failures: int) -> list[float]:
    """The waits of a line that counts as failed at once."""
    it, attempts, now, waits = wanted(a_line(backoff_limit=0)), NO_ATTEMPTS, 0.0, []
    for _ in range(failures):
        attempts = with_failure(attempts, it, reason, "no", now, 0.5)
        waits.append(attempts.due_at - now)
        now = attempts.due_at
    return waits


def test_a_full_disk_is_left_alone_for_an_hour_at_once() -> None:
    it = wanted(a_line(backoff_limit=3))
    attempts = with_failure(NO_ATTEMPTS, it, "DiskFull", "no space left on device", 100, 1.0)
    assert attempts.due_at == 100 + EVICTED_SECONDS
    assert attempts.exhausted(it)


def test_an_image_that_timed_out_or_held_its_slot_for_long_is_remembered_as_slow() -> None:
    it = wanted(a_line())
    assert with_failure(NO_ATTEMPTS, it, "Timeout", "", 0, 0).slow
    assert with_failure(NO_ATTEMPTS, it, "Network", "", 0, 0, slow=True).slow
    assert with_failure(Attempts(1, slow=True), it, "Network", "", 0, 0).slow
    assert not with_failure(NO_ATTEMPTS, it, "Network", "", 0, 0).slow


def test_back_offs_grow() -> None:
    it, attempts, waits = wanted(a_line(backoff_limit=10)), NO_ATTEMPTS, []
    for _ in range(9):
        attempts = with_failure(attempts, it, "Network", "reset", 100, 1.0)
        waits.append(attempts.due_at - 100)
    assert waits == [5, 10, 20, 40, 80, 160, 300, 300, 300]


def test_two_removals_are_healed_at_once_and_the_third_within_an_hour_waits() -> None:
    attempts = NO_ATTEMPTS
    for now in (0.0, 1000.0):
        attempts = after_removal(attempts, now, "12:00")
        assert attempts.due_at == 0
        assert not attempts.reason
    attempts = after_removal(attempts, 2000.0, "13:00")
    assert (attempts.reason, attempts.due_at) == ("Evicted", 2000 + EVICTED_SECONDS)
    assert "13:00" in attempts.message
    assert attempts.exhausted(wanted(a_line()))


@given(st.lists(st.floats(0, 20_000), max_size=20).map(sorted))
def test_removals_an_hour_apart_are_forgotten(times: list[float]) -> None:
    attempts = NO_ATTEMPTS
    for now in times:
        attempts = after_removal(attempts, now, "")
        recent = [time for time in times if time <= now and now - time < EVICTED_SECONDS]
        assert len(attempts.removed_at) <= len(recent)
        assert (attempts.reason == "Evicted") <= (len(recent) >= 3)


def test_the_report_of_a_line_follows_its_attempts() -> None:
    it = wanted(a_line(backoff_limit=1))
    failed_once = Attempts(1, 5, "Network", "reset")
    assert line_report(it, failed_once, warm=True, pulling=True, moved="").state == "warm"
    assert line_report(it, failed_once, warm=False, pulling=True, moved="").state == "pulling"
    waiting = line_report(it, failed_once, warm=False, pulling=False, moved="")
    assert (waiting.state, waiting.reason, waiting.attempts, waiting.message) == ("waiting", "Network", 1, "reset")
    exhausted = replace(failed_once, failed=2)
    assert line_report(it, exhausted, warm=False, pulling=False, moved="").state == "failed"
    assert line_report(it, exhausted, warm=False, pulling=True, moved="").state == "failed"
