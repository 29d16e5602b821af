"""Names match globs: the grammar, and the patterns that are expensive for regular expressions."""

import fnmatch
import re
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmhook.globs import Globs

HOST = "harbor.example.com"


def matches(pattern: str, text: str) -> bool:
    return Globs([pattern]).matching(text) == [0]


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("", ""),
        ("v*", "v1.2"),
        ("v*", "v"),
        ("?", "a"),
        (f"{HOST}/shop/**", f"{HOST}/shop/web"),
        (f"{HOST}/shop/**", f"{HOST}/shop/web/canary"),
        (f"{HOST}/shop/*", f"{HOST}/shop/web"),
        ("**", "a/b/c"),
        ("**", ""),
        ("***", "a/b/c"),
        ("a**z", "a/b/z"),
        ("a**z", "az"),
        ("*-debug", "1.2-debug"),
        ("[a-c]x", "bx"),
        ("[!a-c]x", "dx"),
        ("[]]", "]"),
        ("[a-]", "-"),
        ("[", "["),
        ("[a", "[a"),
        ("[!]", "[!]"),
        ("[*]", "*"),
        ("a.b", "a.b"),
        ("a\nb", "a\nb"),
    ],
)
def test_pattern_matches(pattern: str, text: str) -> None:
    assert matches(pattern, text)


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("", "a"),
        ("**/", "a"),
        ("**/x", "ax"),
        ("shop/**/x", "shop/ax"),
        ("v*", "V1"),
        ("v*", "rv1"),
        ("*", "a/b"),
        ("?", "/"),
        ("?", ""),
        ("?", "ab"),
        (f"{HOST}/shop/*", f"{HOST}/shop/web/canary"),
        (f"{HOST}/shop/**", f"{HOST}/shop"),
        (f"{HOST}/shop/**", f"{HOST}/shopping/web"),
        ("a.b", "axb"),
        ("[a-c]x", "dx"),
        ("[!a-c]x", "bx"),
        ("[c-a]", "b"),
        ("a", "a\n"),
    ],
)
def test_pattern_does_not_match(pattern: str, text: str) -> None:
    assert not matches(pattern, text)


@pytest.mark.parametrize("text", ["shop/x", "shop/a/x", "shop/a/b/x"])
def test_double_star_between_slashes_may_stand_for_no_folder(text: str) -> None:
    assert matches("shop/**/x", text)
    assert matches("**/x", text)
    assert matches("shop/**/**/x", text)
    assert not matches("shop/**/x", text + "y")


def test_double_star_after_a_name_does_not_take_the_slash_away() -> None:
    assert not matches("a**/x", "ax")
    assert matches("a**/x", "a/x")
    assert not matches("shop/**/x", "shopx")


@given(st.text("ab.[]!-*?", max_size=12), st.text("ab.[]!-*?", max_size=8))
def test_without_slashes_a_glob_is_what_fnmatch_takes_it_for(pattern: str, text: str) -> None:
    assert matches(pattern, text) == fnmatch.fnmatchcase(text, pattern)


def expression(pattern: str) -> str:
    """The same glob as a regular expression, for patterns of letters, slashes, `?` and stars."""
    parts = re.split(r"((?:^|(?<=/))\*\*+/(?:\*\*+/)*|\*\*+|\*|\?)", pattern)
    rules = {"": "", "*": "[^/]*", "?": "[^/]"}
    return "".join(
        rules.get(part)
        or ("(?:.*/)?" if part.endswith("/") and "*" in part else ".*" if "*" in part else re.escape(part))
        for part in parts
    )


@given(st.text("ab/*?", max_size=10), st.text("ab/", max_size=10))
def test_stars_and_question_marks_agree_with_a_regular_expression(pattern: str, text: str) -> None:
    assert matches(pattern, text) == bool(re.fullmatch(expression(pattern), text))


@given(st.text(st.characters(exclude_characters="*?["), max_size=20))
def test_text_without_special_characters_matches_itself_alone(text: str) -> None:
    assert matches(text, text)
    assert not matches(text, text + "a")


@pytest.mark.parametrize(
    "pattern",
    [
        "*a" * 255 + "b",
        "**a" * 170 + "b",
        "**/" * 170 + "b",
        "*" * 511 + "b",
        "?*" * 255 + "b",
        "[!b]*" * 102 + "b",
        "[" * 511 + "b",
    ],
)
def test_nasty_patterns_end(pattern: str) -> None:
    """With backtracking each of these would outlive the test run; here the work is len(text) steps."""
    assert not matches(pattern, "a/" * 100 + "a" * 500)


@given(st.lists(st.text("ab/*?[]!", max_size=8), max_size=6), st.text("ab/", max_size=8))
def test_many_patterns_together_match_what_each_matches_alone(patterns: list[str], text: str) -> None:
    alone = [number for number, pattern in enumerate(patterns) if matches(pattern, text)]
    assert Globs(patterns).matching(text) == alone


class Read(str):
    """A text that counts how many of its characters are looked at."""

    __slots__ = ("looked_at",)

    def __iter__(self) -> Iterator[str]:
        self.looked_at = 0
        for character in super().__iter__():
            self.looked_at += 1
            yield character


def test_a_text_is_read_once_however_many_patterns_there_are() -> None:
    text = Read("harbor.example.com/" + "a" * 200)
    assert Globs([f"**a*{'a' * number}" for number in range(500)]).matching(text)
    assert text.looked_at == len(text)
