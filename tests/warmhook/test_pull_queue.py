"""Only what is missing is pulled, in the right order, and never too often."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from warmhook.attempts import (
    NO_ATTEMPTS,
    Attempts,
)
from warmhook.desired_lines import DesiredLine, select_lines
from warmhook.node_lines import MAX_LINES, Line
from warmhook.ports import RuntimeImage
from warmhook.presence import images_by_name, is_warm, pulled_digest, replaced_digest
from warmhook.pull_queue import (
    GIVE_WAY_SECONDS,
    NEGLECTED_SECONDS,
    SLOW_SECONDS,
    ImagePull,
    Running,
    image_bytes,
    next_due,
    schedule,
)
from warmhook.warmimages import ObjectKey, Pull

ONE, TWO = f"sha256:{'1' * 64}", f"sha256:{'2' * 64}"
IMAGE = "registry.example.com/shop/web:1"
NAME = "registry.example.com/shop/web"


def wanted(line: Line, since: float = 0) -> DesiredLine:
    return DesiredLine(line, line.version, since)


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


def pull_of(image: str, namespace: str = "shop", *, slow: bool = False, priority: int = 0) -> ImagePull:
    return ImagePull(image, frozenset(), frozenset({namespace}), priority, 0, 600, slow=slow)


@given(SETS, st.data(), st.integers(1, 5), st.floats(0, 2000))
def test_nothing_warm_waiting_or_running_is_ever_pulled(
    lines: list[DesiredLine], data: st.DataObject, parallel: int, now: float
) -> None:
    versions = [it.version for it in lines]
    warm = set(data.draw(st.lists(st.sampled_from(versions)) if versions else st.just([])))
    images = sorted({it.line.image for it in lines})
    busy = data.draw(st.sets(st.sampled_from(images), max_size=2 * parallel) if images else st.just(set()))
    running = {
        image: Running(pull_of(image, slow=data.draw(st.booleans())), now - data.draw(st.floats(0, 1000)))
        for image in busy
    }
    attempts = {version: Attempts(1, data.draw(st.floats(0, 3000))) for version in versions[::2]}
    plan = schedule(lines, warm, attempts, running, now, parallel, {})
    assert len(plan.start) + len(running) <= max(2 * parallel, len(running))
    assert len({pull.image for pull in plan.start}) == len(plan.start)
    assert set(plan.stop) <= running.keys()
    for pull in plan.start:
        group = [it for it in lines if it.line.image == pull.image]
        missing = [it for it in group if it.version not in warm]
        assert pull.image not in running
        assert any(attempts.get(it.version, NO_ATTEMPTS).due_at <= now for it in missing)
        assert pull.versions == {it.version for it in group}
        assert pull.timeout_seconds == max(it.line.pull.timeout_seconds for it in missing)
        assert pull.priority == max(it.line.pull.priority for it in missing)
    swift = [each for each in running.values() if not each.slow(now)]
    if len(plan.start) + len(swift) < parallel and len(plan.start) + len(running) < 2 * parallel:
        started = {pull.image for pull in plan.start} | running.keys()
        for it in lines:
            due = it.version not in warm and attempts.get(it.version, NO_ATTEMPTS).due_at <= now
            assert not due or it.line.image in started


@given(SETS)
def test_higher_priority_goes_first_then_who_waits_longest(lines: list[DesiredLine]) -> None:
    pulls = schedule(lines, set(), {}, {}, 0, 100, {}).start
    assert pulls == sorted(pulls, key=lambda pull: (-pull.priority, pull.since))


@given(SETS, st.randoms())
def test_the_order_of_the_lines_does_not_matter(lines: list[DesiredLine], random: object) -> None:
    shuffled = list(lines)
    random.shuffle(shuffled)  # type: ignore[attr-defined]  # hypothesis types it loosely
    assert schedule(shuffled, set(), {}, {}, 0, 3, {}) == schedule(lines, set(), {}, {}, 0, 3, {})


def test_an_image_that_failed_goes_after_one_that_did_not() -> None:
    failed = wanted(a_line("registry.example.com/old:1", "old"), since=1)
    fresh = wanted(a_line("registry.example.com/new:1", "new"), since=2)
    attempts = {failed.version: Attempts(1, 0)}
    assert [pull.image for pull in schedule([failed, fresh], set(), attempts, {}, 9, 1, {}).start] == [fresh.line.image]


def test_a_neglected_namespace_goes_before_priority_once_and_within_one_priority_counts() -> None:
    def line(namespace: str, name: str, priority: int) -> DesiredLine:
        image = f"registry.example.com/{namespace}/{name}:1"
        return wanted(Line(ObjectKey(namespace, name), image, pull=Pull(priority=priority)), since=100)

    lines = [line("loud", f"n{i}", 1000 + i) for i in range(3)] + [line("shop", f"n{i}", i) for i in range(3)]

    def order(now: float, served: dict[tuple[str, bool], float]) -> list[str]:
        pulls = schedule(lines, set(), {}, {}, now, 9, served).start
        return [pull.image.removeprefix("registry.example.com/").removesuffix(":1") for pull in pulls]

    loud, shop = ["loud/n2", "loud/n1", "loud/n0"], ["shop/n2", "shop/n1", "shop/n0"]
    late = 100 + NEGLECTED_SECONDS
    assert order(late - 1, {}) == loud + shop
    assert order(late, {("loud", False): 150}) == [shop[0], *loud, *shop[1:]]
    assert order(late, {("loud", False): 150, ("shop", False): 140}) == loud + shop
    assert order(late + 200, {("loud", False): 150, ("shop", False): 160}) == [loud[0], shop[0], *loud[1:], *shop[1:]]
    assert order(late, {("loud", False): 150, ("shop", True): 150}) == [shop[0], *loud, *shop[1:]]


RUNNING = st.lists(
    st.tuples(st.sampled_from(["shop", "other", "third"]), st.booleans(), st.floats(0, 7200)), max_size=10
)


def held(slots: list[tuple[str, bool, float]], now: float, parallel: int) -> dict[str, Running]:
    """Running pulls as `schedule` lets them come about: of namespaces, slow before or not, of some age."""
    pulls = [
        Running(pull_of(f"registry.example.com/running{i}:1", namespace, slow=slow), now - age)
        for i, (namespace, slow, age) in enumerate(slots)
    ]
    swift = [each for each in pulls if not each.slow(now)][:parallel]
    slow = [each for each in pulls if each.slow(now)][: 2 * parallel - len(swift)]
    return {each.pull.image: each for each in (*swift, *slow)}


@given(RUNNING, st.integers(1, 4), st.integers(-1000, 1000))
def test_a_first_try_of_a_namespace_without_slow_pulls_finds_a_slot_or_one_gives_way(
    slots: list[tuple[str, bool, float]], parallel: int, priority: int
) -> None:
    now = 10_000.0
    running = held(slots, now, parallel)
    first = wanted(Line(ObjectKey("fresh", "web"), IMAGE, pull=Pull(priority=priority)))
    plan = schedule([first], set(), {}, running, now, parallel, {})
    swift = sum(1 for each in running.values() if not each.slow(now))
    namespaces = Counter(next(iter(each.pull.namespaces)) for each in running.values() if each.slow(now))
    yielding = any(
        each.pull.slow or now - each.began >= GIVE_WAY_SECONDS or namespaces[next(iter(each.pull.namespaces))] > 1
        for each in running.values()
        if each.slow(now)
    )
    if swift < parallel and (len(running) < 2 * parallel or yielding):
        assert len(plan.start) + len(plan.stop) == 1
    else:
        # Every slot is held by a pull that is younger than a minute, or the only one of its namespace and ten.
        assert not plan.start
        assert not plan.stop


@given(RUNNING, st.integers(1, 4), st.integers(1, 20))
def test_images_that_were_slow_hold_half_of_the_slots_at_most_and_stop_nothing(
    slots: list[tuple[str, bool, float]], parallel: int, many: int
) -> None:
    now = 10_000.0
    running = held(slots, now, parallel)
    lines = [wanted(a_line(f"registry.example.com/slow{i}:1", f"slow{i}", priority=1000)) for i in range(many)]
    attempts = {line.version: Attempts(1, 0, "Timeout", slow=True) for line in lines}
    plan = schedule(lines, set(), attempts, running, now, parallel, {})
    before = sum(1 for each in running.values() if each.pull.slow)
    assert len(plan.start) <= max(0, max(1, parallel // 2) - before)
    assert plan.stop == []


@pytest.mark.slow
@settings(max_examples=50)
@given(RUNNING, st.integers(1, 4), SETS)
def test_no_more_pulls_are_stopped_than_wait_and_none_twice(
    slots: list[tuple[str, bool, float]], parallel: int, lines: list[DesiredLine]
) -> None:
    now = 10_000.0
    running = held(slots, now, parallel)
    plan = schedule(lines, set(), {}, running, now, parallel, {})
    assert len(plan.start) + len(plan.stop) <= len({it.line.image for it in lines})
    assert len(plan.stop) <= parallel
    told = running | {image: replace(running[image], stopping=True) for image in plan.stop}
    started = {pull.image for pull in plan.start}
    waiting = [it for it in lines if it.line.image not in started]
    assert not set(schedule(waiting, set(), {}, told, now, parallel, {}).stop) & set(plan.stop)


@given(st.integers(1, 4), st.integers(1, 8), st.booleans())
def test_an_image_of_another_registry_finds_a_slot_although_one_registry_holds_them_all(
    parallel: int, many: int, slow: bool
) -> None:
    busy = [f"busy.example.com/shop/web{i}:1" for i in range(min(many, 2 * parallel))]
    running = {image: Running(pull_of(image), 0.0 if slow else 99.0) for image in busy}
    lines = [wanted(a_line(f"other.example.com/shop/web{i}:1", f"web{i}")) for i in range(4)]
    lines += [wanted(a_line(f"busy.example.com/shop/more{i}:1", f"more{i}", priority=9)) for i in range(4)]
    plan = schedule(lines, set(), {}, running, 100.0, parallel, {})
    assert any(pull.image.startswith("other.") for pull in plan.start)
    assert len(plan.start) + len(running) <= 2 * parallel + 1


def test_a_pull_has_at_most_two_hours() -> None:
    line = wanted(a_line(timeout_seconds=86400))
    assert schedule([line], set(), {}, {}, 0, 1, {}).start[0].timeout_seconds == 7200


def test_the_schedule_is_made_again_when_a_pull_becomes_slow_and_when_it_may_give_way() -> None:
    running = [Running(pull_of("long"), 100)]
    assert next_due([], set(), {}, running, 100) == 100 + SLOW_SECONDS
    assert next_due([], set(), {}, running, 200) == 100 + GIVE_WAY_SECONDS
    assert next_due([], set(), {}, running, 1000) is None


def test_the_next_time_is_the_earliest_to_come_of_what_is_not_warm() -> None:
    first, second, third = (wanted(a_line(name=f"n{i}")) for i in range(3))
    attempts = {first.version: Attempts(1, 10), second.version: Attempts(1, 20), third.version: Attempts(1, 15)}
    lines = [first, second, third]
    assert next_due(lines, set(), attempts, [], 10) == 15
    assert next_due(lines, {third.version}, attempts, [], 10) == 20
    assert next_due(lines, set(), attempts, [], 20) is None


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


def test_the_digest_that_a_moved_tag_brought_is_expected_from_then_on() -> None:
    it = wanted(a_line(digest=ONE))
    pulled = {it.version: TWO}
    assert is_warm(it, listed(TWO), RUNNABLE, pulled)
    assert not is_warm(it, listed(ONE), RUNNABLE, pulled)
    assert replaced_digest(it, pulled) == TWO
    assert replaced_digest(it, {it.version: ONE}) == replaced_digest(it, {}) == ""


def test_the_digest_that_a_pull_brought_is_the_new_or_the_expected_one() -> None:
    assert pulled_digest(IMAGE, {}, listed(ONE), ONE) == ONE
    assert pulled_digest(IMAGE, {}, listed(TWO), ONE) == TWO
    # The image had the other digest before; the new one is what the tag's pull brought.
    assert pulled_digest(IMAGE, listed(ONE), listed(ONE, TWO)) == TWO
    assert pulled_digest(IMAGE, listed(ONE, TWO), listed(ONE, TWO), TWO) == TWO
    assert pulled_digest(IMAGE, {}, listed()) == ""
    assert pulled_digest(IMAGE, {}, {}) == ""


@given(st.sets(st.sampled_from([ONE, TWO])), st.sets(st.sampled_from([ONE, TWO])), st.sampled_from(["", ONE, TWO]))
def test_after_a_pull_whose_image_lists_a_digest_every_line_of_it_is_warm(
    before: set[str], after: set[str], expected: str
) -> None:
    it = wanted(a_line(digest=expected, pushed_at="2026-05-01T00:00:00Z"))
    images = listed(*after)
    pulled = {it.version: pulled_digest(IMAGE, listed(*before), images, expected)}
    assert is_warm(it, images, RUNNABLE, pulled) == bool(after)


# --- what is taken ---


def test_lines_keep_their_age_until_their_version_changes() -> None:
    line = a_line(digest=ONE)
    first = select_lines({line.key: line.encode()}, {}, 10).lines
    assert select_lines({line.key: line.encode()}, first, 20).lines[line.key].since == 10
    newer = replace(line, digest=TWO)
    assert select_lines({line.key: newer.encode()}, first, 20).lines[line.key].since == 20


@given(st.integers(0, 300), st.integers(0, 300))
def test_the_most_important_lines_are_taken_and_the_rest_is_surplus(many: int, important: int) -> None:
    lines = [a_line(name=f"n{i}", priority=int(i < important)) for i in range(many)]
    taken = select_lines({line.key: line.encode() for line in lines}, {}, 0)
    assert len(taken.lines) == min(many, MAX_LINES)
    assert len(taken.lines) + len(taken.surplus) == many
    # All of one namespace.
    least = min((it.line.pull.priority for it in taken.lines.values()), default=0)
    assert all(it.line.pull.priority <= least for it in taken.surplus.values())


def test_of_lines_that_find_no_room_the_newest_of_a_priority_are_taken_and_stay_taken() -> None:
    old = [a_line(name=f"old{number}") for number in range(MAX_LINES)]
    data = {line.key: line.encode() for line in old}
    first = select_lines(data, {}, 10)
    new = a_line(name="new")
    second = select_lines(data | {new.key: new.encode()}, first.lines, 20)
    assert new.key in second.lines
    third = select_lines(data | {new.key: new.encode()}, {**second.surplus, **second.lines}, 30)
    assert third == second


def test_one_namespace_takes_no_line_of_another() -> None:
    loud = [replace(a_line(priority=1000), warmimage=ObjectKey("loud", f"x{number}")) for number in range(1000)]
    quiet = [replace(a_line(), warmimage=ObjectKey("quiet", f"x{number}")) for number in range(50)]
    taken = select_lines({line.key: line.encode() for line in loud + quiet}, {}, 0)
    assert {line.key for line in quiet} <= taken.lines.keys()
    assert len(taken.lines) == MAX_LINES


@given(st.dictionaries(st.text(max_size=20), st.text(max_size=60) | st.just("[" * 100_000), max_size=5))
def test_no_data_makes_reading_fail(data: dict[str, str]) -> None:
    taken = select_lines(data, {}, 0)
    assert not taken.lines
    assert taken.malformed.keys() == {key for key in data if "." not in key}


def test_hints_are_no_lines() -> None:
    line = a_line()
    taken = select_lines({line.key: line.encode(), f"{line.key}.hint": "{}"}, {}, 0)
    assert (list(taken.lines), dict(taken.malformed)) == ([line.key], {})


@given(SETS, st.lists(st.integers(-5, 2**60), min_size=20, max_size=20), st.integers(0, 2**51))
def test_the_pulls_that_start_fit_together_and_no_image_that_fits_is_left_out_for_a_larger_one(
    lines: list[DesiredLine], sizes: list[int], room_bytes: int
) -> None:
    sized = [replace(it, line=replace(it.line, size_bytes=size)) for it, size in zip(lines, sizes, strict=False)]
    started = schedule(sized, set(), {}, {}, 0, len(sized) or 1, {}, room_bytes).start
    left = room_bytes - sum(pull.size_bytes for pull in started)
    assert left >= 0
    others = {it.line.image for it in sized} - {pull.image for pull in started}
    assert all(image_bytes([it for it in sized if it.line.image == image]) > left for image in others)


@pytest.mark.parametrize(
    ("seconds", "downloaded", "stopped"), [(599, 0, False), (600, 0, True), (600, 499, True), (600, 500, False)]
)
def test_a_pull_that_has_brought_less_than_half_in_ten_minutes_makes_room_for_another_namespace(
    seconds: float, downloaded: int, stopped: bool
) -> None:
    large = replace(pull_of("greedy.example.com/large:1", "greedy"), size_bytes=1000)
    running = {large.image: Running(large, 0.0, downloaded_bytes=downloaded)}
    waits = wanted(replace(a_line(), size_bytes=300))
    plan = schedule([waits], set(), {}, running, seconds, 2, {}, 100)
    assert (plan.start, plan.stop) == ([], [large.image] if stopped else [])
    stopping = {large.image: Running(large, 0.0, stopping=True)}
    assert schedule([waits], set(), {}, stopping, seconds, 2, {}, 100).stop == []


def test_no_pull_makes_room_where_that_is_not_enough() -> None:
    small = replace(pull_of("greedy.example.com/small:1", "greedy"), size_bytes=100)
    waits = wanted(replace(a_line(), size_bytes=300))
    assert schedule([waits], set(), {}, {small.image: Running(small, 0.0)}, 7000, 2, {}, 100).stop == []
