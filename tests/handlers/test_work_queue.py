"""No change is lost and none is sent for ever, in whatever order events end."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from handlers.watch.work_queue import Batch, WorkQueue
from warmhook.events import Changed

steps = st.one_of(
    st.tuples(st.just("change"), st.integers(0, 3)),
    st.tuples(st.just("take"), st.integers(1, 3)),
    st.tuples(st.just("release"), st.integers(0, 5)),
    st.tuples(st.just("taken"), st.integers(0, 5)),
    st.tuples(st.just("again"), st.integers(0, 5)),
)


class Played:
    """Steps on what is pending, what became of it, and the newest version of each key."""

    def __init__(self) -> None:
        self.queue = WorkQueue()
        self.queue.open()
        self.under_way: list[Batch] = []
        self.version = 0
        self.newest: dict[str, int] = {}
        self.taken: dict[str, int] = {}

    def step(self, step: str, number: int) -> None:
        if step == "change":
            self.version += 1
            self.newest[f"n{number}"] = self.version
            self.queue.changed(Changed("Node", "", f"n{number}", resource_version=str(self.version)))
        elif step == "take":
            self.take(number)
        elif number < len(self.under_way):
            batch = self.under_way[number]
            if step == "release":
                self.queue.release(batch)
            else:
                self.end(batch, again=step == "again")

    def take(self, most: int) -> bool:
        batch = self.queue.get("changes", most)
        self.under_way += [batch] if batch else []
        return batch is not None

    def end(self, batch: Batch, *, again: bool) -> None:
        self.under_way.remove(batch)
        self.queue.done(batch, again=again)
        if not again:
            for change in batch.changes:
                self.taken[change.name] = max(self.taken.get(change.name, 0), int(change.resource_version))


@given(st.lists(steps, max_size=40))
def test_the_newest_word_of_every_key_waits_is_under_way_or_was_taken(steps: list[tuple[str, int]]) -> None:
    played = Played()
    for step, number in steps:
        played.step(step, number)
    for batch in list(played.under_way):
        played.end(batch, again=True)
    while played.take(100):
        played.end(played.under_way[0], again=False)
    assert played.taken == played.newest


def test_a_key_is_named_by_one_event_at_a_time_until_that_is_overdue() -> None:
    queue = WorkQueue()
    queue.open()
    queue.changed(Changed("Node", "", "a", resource_version="1"))
    first = queue.get("changes", 9)
    assert first is not None
    queue.changed(Changed("Node", "", "a", resource_version="2"))
    assert queue.get("changes", 9) is None
    queue.release(first)
    second = queue.get("changes", 9)
    assert second is not None
    assert [change.resource_version for change in second.changes] == ["2"]
    # The newer event holds the key now; that the older one ends changes nothing.
    queue.done(first, again=True)
    queue.changed(Changed("Node", "", "a", resource_version="3"))
    assert queue.get("changes", 9) is None
    queue.done(second, again=True)
    third = queue.get("changes", 9)
    assert third is not None
    assert [change.resource_version for change in third.changes] == ["3"]
