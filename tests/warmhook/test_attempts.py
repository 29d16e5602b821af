"""A failed pull is tried again soon, then seldom, and a line that keeps failing stays failed."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from tests.warmhook.test_pull_queue import a_line, wanted
from warmhook.attempts import (
    EVICTED_SECONDS,
    FIRST_RETRY_SECONDS,
    LASTING_RETRY_SECONDS,
    NO_ATTEMPTS,
    RETRY_SECONDS,
    RETRY_STEP_SECONDS,
    Attempts,
    after_removal,
    line_report,
    with_failure,
)
from warmhook.pull_failures import FailureReason


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
    longest = LASTING_RETRY_SECONDS if reason in ("NotFound", "Unauthorized") else RETRY_SECONDS
    assert after.failed == failed + 1
    assert FIRST_RETRY_SECONDS / 2 <= round(wait, 3) <= longest * 1.05 + RETRY_STEP_SECONDS
    assert after.exhausted(it) == (failed + 1 > limit)
    if after.exhausted(it):
        assert wait >= RETRY_SECONDS * 0.94
        assert after.due_at % RETRY_STEP_SECONDS == 0


def test_a_failure_that_only_a_person_can_mend_is_tried_every_hour_in_the_end() -> None:
    it, attempts, now, waits = wanted(a_line(backoff_limit=0)), NO_ATTEMPTS, 0.0, []
    for _ in range(6):
        attempts = with_failure(attempts, it, "Unauthorized", "no", now, 0.5)
        waits.append(attempts.due_at - now)
        now = attempts.due_at
    assert waits == [300, 600, 1200, 2400, 3600, 3600]


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
