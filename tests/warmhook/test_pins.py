"""Exactly the names of pinned lines are pinned, and pins of others are left alone."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from warmhook.node_lines import Line
from warmhook.pins import OURS, PIN, PINNED, UNPINNED, our_pins, pin_changes, pinned_names
from warmhook.ports import RuntimeImage, StoredImage
from warmhook.presence import images_by_name
from warmhook.warmimages import ObjectKey, Pull

NAME = "registry.example.com/shop/web"
LINE = Line(ObjectKey("shop", "web"), f"{NAME}:1", pull=Pull(pinned=True))
DIGEST = f"{NAME}@sha256:{'1' * 64}"
MIRROR = f"mirror.example.com/web@sha256:{'1' * 64}"
IMAGES = images_by_name([RuntimeImage("id", (f"{NAME}:1", f"{NAME}:stable"), (DIGEST, MIRROR))])


def test_a_pinned_line_pins_its_tag_and_its_digest_and_no_other_name_of_the_image() -> None:
    assert pinned_names([LINE], IMAGES) == {f"{NAME}:1", DIGEST}


def test_the_name_of_a_pinned_line_keeps_its_pin_while_the_image_is_not_listed() -> None:
    assert pinned_names([LINE], {}) == {f"{NAME}:1"}


def test_lines_that_are_not_pinned_or_purged_pin_nothing() -> None:
    assert pinned_names([replace(LINE, pull=Pull()), replace(LINE, purged=True)], IMAGES) == set()


def test_a_name_that_a_person_pinned_is_neither_pinned_nor_unpinned() -> None:
    theirs = StoredImage(f"{NAME}:1", {PIN: "pinned"})
    for wanted in ({f"{NAME}:1"}, set[str]()):
        changes = pin_changes(wanted, [theirs])
        assert (changes.pin, changes.unpin) == ([], [])
    assert our_pins([theirs]) == []


def test_a_name_of_ours_that_lost_its_pin_is_pinned_again() -> None:
    assert pin_changes({"a"}, [StoredImage("a", {OURS: "true"})]).pin == ["a"]


NAMES = st.sampled_from("abcd")
LABELS = st.sampled_from([{}, {PIN: "pinned"}, {OURS: "true"}, dict(PINNED)])


@given(st.sets(NAMES), st.dictionaries(NAMES, LABELS))
def test_after_the_changes_every_stored_wanted_name_is_pinned_and_nothing_is_left_to_do(
    wanted: set[str], stored: dict[str, dict[str, str]]
) -> None:
    images = [StoredImage(name, labels) for name, labels in stored.items()]
    changes = pin_changes(wanted, images)
    after = [
        replace(image, labels=_with(image.labels, PINNED if image.name in changes.pin else UNPINNED))
        if image.name in (*changes.pin, *changes.unpin)
        else image
        for image in images
    ]
    assert all(image.labels.get(PIN) == "pinned" for image in after if image.name in wanted)
    assert set(our_pins(after)) <= wanted
    assert pin_changes(wanted, after) == pin_changes((), [])


def _with(labels: object, changes: object) -> dict[str, str]:
    assert isinstance(labels, dict)
    return {key: value for key, value in {**labels, **dict(changes)}.items() if value}  # type: ignore[call-overload]
