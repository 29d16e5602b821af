"""Is only pulled what is missing, in the right order, and never too often?"""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from warmhook.lines import MAX_LINES, Line
from warmhook.outstanding import (
    EVICTED_SECONDS,
    FIRST_RETRY_SECONDS,
    NONE_YET,
    RETRY_SECONDS,
    Attempts,
    after_failure,
    after_removal,
    line_report,
    next_due,
    next_pulls,
)
from warmhook.ports import RuntimeImage
from warmhook.wanted import Wanted, take_lines
from warmhook.warmimages import ObjectKey, Pull
from warmhook.warmth import brought, images_by_name, is_warm, moved_to

ONE, TWO = f"sha256:{'1' * 64}", f"sha256:{'2' * 64}"
IMAGE = "registry.example.com/shop/web:1"
NAME = "registry.example.com/shop/web"


def wanted(line: Line, since: float = 0) -> Wanted:
    return Wanted(line, line.version, since)


def a_line(image: str = IMAGE, name: str = "web", digest: str = "", pushed_at: str = "", **pull: object) -> Line:
    return Line(ObjectKey("shop", name), image, digest, pushed_at, Pull(**pull))  # type: ignore[arg-type]  # test data


LINES = st.builds(
    lambda image, name, since, priority, timeout, limit: wanted(
        a_line(
            f"registry.example.com/shop/web{image}:1",
            f"n{name}",
            priority=priority,
            timeout_seconds=timeout,
            backoff_limit=limit,
        ),
        since,
    ),
    st.integers(0, 5),
    st.integers(0, 30),
    st.floats(0, 1000),
    st.integers(-2, 2),
    st.integers(1, 900),
    st.integers(0, 5),
)
SETS = st.lists(LINES, max_size=20, unique_by=lambda it: it.version)


@given(SETS, st.data(), st.integers(1, 5), st.floats(0, 2000))
def test_nothing_warm_waiting_or_running_is_ever_pulled(
    lines: list[Wanted], data: st.DataObject, parallel: int, now: float
) -> None:
    versions = [it.version for it in lines]
    warm = set(data.draw(st.lists(st.sampled_from(versions)) if versions else st.just([])))
    images = sorted({it.line.image for it in lines})
    running = data.draw(st.sets(st.sampled_from(images), max_size=parallel) if images else st.just(set()))
    attempts = {version: Attempts(1, data.draw(st.floats(0, 3000))) for version in versions[::2]}
    pulls = next_pulls(lines, warm, attempts, running, now, parallel)
    assert len(pulls) + len(running) <= max(parallel, len(running))
    assert len({pull.image for pull in pulls}) == len(pulls)
    for pull in pulls:
        group = [it for it in lines if it.line.image == pull.image]
        missing = [it for it in group if it.version not in warm]
        assert pull.image not in running
        assert any(attempts.get(it.version, NONE_YET).due_at <= now for it in missing)
        assert pull.versions == {it.version for it in group}
        assert pull.timeout_seconds == max(it.line.pull.timeout_seconds for it in missing)
        assert pull.priority == max(it.line.pull.priority for it in missing)
    if len(pulls) + len(running) < parallel:
        started = {pull.image for pull in pulls} | running
        for it in lines:
            due = it.version not in warm and attempts.get(it.version, NONE_YET).due_at <= now
            assert not due or it.line.image in started


@given(SETS)
def test_higher_priority_goes_first_then_who_waits_longest(lines: list[Wanted]) -> None:
    pulls = next_pulls(lines, set(), {}, set(), 0, 100)
    assert pulls == sorted(pulls, key=lambda pull: (-pull.priority, pull.since))


@given(SETS, st.randoms())
def test_the_order_of_the_lines_does_not_matter(lines: list[Wanted], random: object) -> None:
    shuffled = list(lines)
    random.shuffle(shuffled)  # type: ignore[attr-defined]  # hypothesis types it loosely
    assert next_pulls(shuffled, set(), {}, set(), 0, 3) == next_pulls(lines, set(), {}, set(), 0, 3)


def test_an_image_that_failed_goes_after_one_that_did_not() -> None:
    failed = wanted(a_line("registry.example.com/old:1", "old"), since=1)
    fresh = wanted(a_line("registry.example.com/new:1", "new"), since=2)
    attempts = {failed.version: Attempts(1, 0)}
    assert [pull.image for pull in next_pulls([failed, fresh], set(), attempts, set(), 9, 1)] == [fresh.line.image]


@given(st.integers(0, 100), st.integers(0, 100), st.floats(0, 1), st.floats(0, 1e6))
def test_a_back_off_is_never_longer_than_its_bound(failed: int, limit: int, random: float, now: float) -> None:
    it = wanted(a_line(backoff_limit=limit))
    after = after_failure(Attempts(failed), it, "Network", "reset", now, random)
    assert after.failed == failed + 1
    assert FIRST_RETRY_SECONDS / 2 <= round(after.due_at - now, 3) <= RETRY_SECONDS * 1.05
    if after.exhausted(it):
        assert after.due_at - now >= RETRY_SECONDS * 0.94
    assert after.exhausted(it) == (failed + 1 > limit)


def test_back_offs_grow() -> None:
    it, attempts, waits = wanted(a_line(backoff_limit=10)), NONE_YET, []
    for _ in range(9):
        attempts = after_failure(attempts, it, "Network", "reset", 100, 1.0)
        waits.append(attempts.due_at - 100)
    assert waits == [5, 10, 20, 40, 80, 160, 300, 300, 300]


def test_two_removals_are_healed_at_once_and_the_third_within_an_hour_waits() -> None:
    attempts = NONE_YET
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
    attempts = NONE_YET
    for now in times:
        attempts = after_removal(attempts, now, "")
        recent = [time for time in times if time <= now and now - time < EVICTED_SECONDS]
        assert len(attempts.removed_at) <= len(recent)
        assert (attempts.reason == "Evicted") <= (len(recent) >= 3)


def test_the_next_time_is_the_earliest_to_come_of_what_is_not_warm() -> None:
    first, second, third = (wanted(a_line(name=f"n{i}")) for i in range(3))
    attempts = {first.version: Attempts(1, 10), second.version: Attempts(1, 20), third.version: Attempts(1, 15)}
    lines = [first, second, third]
    assert next_due(lines, set(), attempts, 10) == 15
    assert next_due(lines, {third.version}, attempts, 10) == 20
    assert next_due(lines, set(), attempts, 20) is None


def test_what_is_said_of_a_line() -> None:
    it = wanted(a_line(backoff_limit=1))
    failed_once = Attempts(1, 5, "Network", "reset")
    assert line_report(it, failed_once, warm=True, pulling=True, moved="").state == "warm"
    assert line_report(it, failed_once, warm=False, pulling=True, moved="").state == "pulling"
    waiting = line_report(it, failed_once, warm=False, pulling=False, moved="")
    assert (waiting.state, waiting.reason, waiting.attempts, waiting.message) == ("waiting", "Network", 1, "reset")
    assert line_report(it, replace(failed_once, failed=2), warm=False, pulling=False, moved="").state == "failed"


# --- warmth ---

RUNNABLE = frozenset({"id"})


def listed(*digests: str, tags: tuple[str, ...] = (IMAGE,)) -> dict[str, RuntimeImage]:
    return images_by_name([RuntimeImage("id", tags, tuple(f"{NAME}@{digest}" for digest in digests))])


def test_a_line_with_a_digest_is_warm_when_its_image_has_it() -> None:
    it = wanted(a_line(digest=ONE))
    assert is_warm(it, listed(TWO, ONE), RUNNABLE, {})
    assert not is_warm(it, listed(TWO), RUNNABLE, {})
    assert not is_warm(it, listed(), RUNNABLE, {})
    assert not is_warm(it, {}, RUNNABLE, {})


def test_presence_of_the_digest_under_another_tag_is_not_warm() -> None:
    assert not is_warm(wanted(a_line(digest=ONE)), listed(ONE, tags=(f"{NAME}:2",)), RUNNABLE, {})


def test_presence_is_never_a_matter_of_substrings() -> None:
    images = listed(ONE, tags=(f"{IMAGE}0", f"mirror.example.com/{IMAGE}"))
    assert not is_warm(wanted(a_line(digest=ONE)), images, RUNNABLE, {})


def test_a_line_by_digest_is_warm_when_that_digest_is_listed() -> None:
    it = wanted(a_line(f"{NAME}@{ONE}", digest=ONE))
    assert is_warm(it, listed(ONE, tags=()), RUNNABLE, {})
    assert not is_warm(it, listed(TWO, tags=()), RUNNABLE, {})


def test_a_line_with_neither_digest_nor_push_is_warm_when_the_reference_is_present() -> None:
    it = wanted(a_line())
    assert is_warm(it, listed(ONE), RUNNABLE, {})
    assert is_warm(it, listed(TWO), RUNNABLE, {it.version: ONE})


def test_a_push_without_a_digest_is_warm_only_after_a_pull_of_this_version() -> None:
    it = wanted(a_line(pushed_at="2026-05-01T00:00:00Z"))
    assert not is_warm(it, listed(ONE), RUNNABLE, {})
    assert is_warm(it, listed(ONE), RUNNABLE, {it.version: ONE})
    assert not is_warm(it, {}, RUNNABLE, {it.version: ONE})


def test_an_image_that_is_not_known_to_run_is_not_warm() -> None:
    for it in (wanted(a_line()), wanted(a_line(digest=ONE)), wanted(a_line(f"{NAME}@{ONE}", digest=ONE))):
        assert is_warm(it, listed(ONE), RUNNABLE, {})
        assert not is_warm(it, listed(ONE), frozenset({"another"}), {})


def test_an_image_that_is_listed_without_a_digest_is_not_warm() -> None:
    it = wanted(a_line())
    assert not is_warm(it, listed(), RUNNABLE, {})
    assert not is_warm(it, listed(), RUNNABLE, {it.version: ""})


def test_always_is_warm_only_after_a_pull_of_this_version() -> None:
    it = wanted(a_line(digest=ONE, policy="Always"))
    assert not is_warm(it, listed(ONE), RUNNABLE, {})
    assert is_warm(it, listed(ONE), RUNNABLE, {it.version: ONE})


def test_where_the_tag_has_moved_what_came_is_expected_from_then_on() -> None:
    it = wanted(a_line(digest=ONE))
    pulled = {it.version: TWO}
    assert is_warm(it, listed(TWO), RUNNABLE, pulled)
    assert not is_warm(it, listed(ONE), RUNNABLE, pulled)
    assert moved_to(it, pulled) == TWO
    assert moved_to(it, {it.version: ONE}) == moved_to(it, {}) == ""


def test_what_a_pull_brought() -> None:
    assert brought(IMAGE, {}, listed(ONE), ONE) == ONE
    assert brought(IMAGE, {}, listed(TWO), ONE) == TWO
    # The image had the other digest before; the new one is what the tag's pull brought.
    assert brought(IMAGE, listed(ONE), listed(ONE, TWO)) == TWO
    assert brought(IMAGE, listed(ONE, TWO), listed(ONE, TWO), TWO) == TWO
    assert brought(IMAGE, {}, listed()) == ""
    assert brought(IMAGE, {}, {}) == ""


@given(st.sets(st.sampled_from([ONE, TWO])), st.sets(st.sampled_from([ONE, TWO])), st.sampled_from(["", ONE, TWO]))
def test_after_a_pull_whose_image_lists_a_digest_every_line_of_it_is_warm(
    before: set[str], after: set[str], expected: str
) -> None:
    it = wanted(a_line(digest=expected, pushed_at="2026-05-01T00:00:00Z"))
    images = listed(*after)
    pulled = {it.version: brought(IMAGE, listed(*before), images, expected)}
    assert is_warm(it, images, RUNNABLE, pulled) == bool(after)


# --- what is taken ---


def test_lines_keep_their_age_until_their_version_changes() -> None:
    line = a_line(digest=ONE)
    first = take_lines({line.key: line.encode()}, {}, 10).lines
    assert take_lines({line.key: line.encode()}, first, 20).lines[line.key].since == 10
    newer = replace(line, digest=TWO)
    assert take_lines({line.key: newer.encode()}, first, 20).lines[line.key].since == 20


@given(st.integers(0, 300), st.integers(0, 300))
def test_the_most_important_lines_are_taken_and_the_rest_is_surplus(many: int, important: int) -> None:
    lines = [a_line(name=f"n{i}", priority=int(i < important)) for i in range(many)]
    taken = take_lines({line.key: line.encode() for line in lines}, {}, 0)
    assert len(taken.lines) == min(many, MAX_LINES)
    assert len(taken.lines) + len(taken.surplus) == many
    least = min((it.line.pull.priority for it in taken.lines.values()), default=0)
    assert all(it.line.pull.priority <= least for it in taken.surplus.values())


@given(st.dictionaries(st.text(max_size=20), st.text(max_size=60) | st.just("[" * 100_000), max_size=5))
def test_no_data_makes_reading_fail(data: dict[str, str]) -> None:
    taken = take_lines(data, {}, 0)
    assert not taken.lines
    assert taken.malformed.keys() == {key for key in data if "." not in key}


def test_hints_are_no_lines() -> None:
    line = a_line()
    taken = take_lines({line.key: line.encode(), f"{line.key}.hint": "{}"}, {}, 0)
    assert (list(taken.lines), dict(taken.malformed)) == ([line.key], {})
