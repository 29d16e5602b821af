"""A WarmImage that is warmed once is complete when all nodes are warm or its deadline is over, and then stays so."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from warmhook.completion import completion, is_finished
from warmhook.images import parse_reference
from warmhook.placement import Node, place_each
from warmhook.requests import Requests
from warmhook.warmimages import Lifecycle, ObjectKey, Once, Template, WarmImage

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
ONCE = WarmImage(ObjectKey("shop", "web"), parse_reference("ghcr.io/a/b:1"), template=Template(once=Once(600, 60)))
NODES = [Node("a", "uid", {"kubernetes.io/os": "linux"})]


def reason(
    desired: int, warm: int, failed: int = 0, *, seconds: float = 0, warmimage: WarmImage = ONCE
) -> tuple[str, bool]:
    found = completion(warmimage, desired, warm, failed, NOW - timedelta(seconds=seconds), NOW)
    assert found is not None
    return found.reason, found.complete


def test_it_is_complete_when_every_node_is_warm() -> None:
    assert reason(3, 3) == ("AllWarm", True)
    assert reason(3, 2, 1) == ("NotAllWarm", False)


def test_without_a_node_it_is_not_complete() -> None:
    assert reason(0, 0) == ("NotAllWarm", False)
    assert reason(0, 0, seconds=600) == ("DeadlineExceeded", True)


def test_its_deadline_ends_it_and_says_why_nodes_are_not_warm() -> None:
    assert reason(3, 2, 1, seconds=599) == ("NotAllWarm", False)
    assert reason(3, 2, 1, seconds=600) == ("NodesFailed", True)
    assert reason(3, 1, 1, seconds=600) == ("DeadlineExceeded", True)
    assert reason(3, 3, seconds=600) == ("AllWarm", True)


def test_without_a_deadline_it_waits_for_ever() -> None:
    assert reason(2, 1, 1, seconds=10**9, warmimage=replace(ONCE, template=Template(once=Once()))) == (
        "NotAllWarm",
        False,
    )


def test_neither_comes_while_it_is_suspended_or_purged_unless_all_are_warm() -> None:
    suspended = replace(ONCE, template=replace(ONCE.template, suspend=True))
    assert reason(2, 1, seconds=10**6, warmimage=suspended) == ("Suspended", False)
    assert reason(2, 2, warmimage=suspended) == ("AllWarm", True)
    assert reason(2, 2, warmimage=replace(ONCE, requests=Requests(purge=True))) == ("Purged", False)


def test_what_is_kept_is_never_complete() -> None:
    kept = replace(ONCE, template=Template())
    assert completion(kept, 1, 1, 0, NOW, NOW) is None
    assert not replace(kept, lifecycle=Lifecycle(complete_since=NOW)).complete


def test_what_is_complete_wants_no_node() -> None:
    done = replace(ONCE, lifecycle=Lifecycle(complete_since=NOW))
    assert [nodes for _, nodes in place_each([ONCE, done], NODES)] == [NODES, []]


@pytest.mark.parametrize(
    ("changes", "finished"),
    [
        ({}, True),
        ({"lifecycle": Lifecycle(complete_since=NOW - timedelta(seconds=59))}, False),
        ({"lifecycle": Lifecycle()}, False),
        ({"template": Template(once=Once(600))}, False),
        ({"template": Template()}, False),
        # Its object is what lets a repeated event change nothing.
        ({"policy_label": "0123456789abcdef"}, False),
    ],
)
def test_it_is_deleted_a_while_after_it_completed_unless_a_policy_has_it(
    changes: dict[str, object], finished: bool
) -> None:
    done = replace(ONCE, lifecycle=Lifecycle(complete_since=NOW - timedelta(seconds=60)))
    assert is_finished(replace(done, **changes), NOW) is finished  # type: ignore[arg-type]
