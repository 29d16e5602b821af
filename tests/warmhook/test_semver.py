"""Tags match ranges of semantic versions. The package `semver` is the oracle for versions."""

import itertools

import pytest
import semver as oracle
from hypothesis import given
from hypothesis import strategies as st

from warmhook.semver import NotARange, Version, parse_range, parse_version

number = st.integers(0, 3) | st.integers(0, 10**12)
part = st.one_of(number.map(str), st.from_regex(r"[0-9]*[A-Za-z-][0-9A-Za-z-]{0,3}", fullmatch=True))
parts = st.lists(part, max_size=3).map(".".join)
core = st.tuples(number, number, number).map(lambda numbers: ".".join(map(str, numbers)))
versions = st.tuples(core, parts, parts).map(
    lambda text: text[0] + (f"-{text[1]}" if text[1] else "") + (f"+{text[2]}" if text[2] else "")
)
partials = st.one_of(
    core,
    st.just("*"),
    number.map(str),
    number.map("{}.x".format),
    st.tuples(number, number).map("{0[0]}.{0[1]}".format),
)
comparators = st.tuples(st.sampled_from(["", "=", "!=", ">", ">=", "<", "<=", "~", "^"]), partials | versions).map(
    "".join
)
ranges = st.lists(st.lists(comparators, min_size=1, max_size=3).map(" ".join), min_size=1, max_size=2).map(" || ".join)


def version(text: str) -> Version:
    parsed = parse_version(text)
    assert parsed is not None
    return parsed


@given(versions)
def test_version_is_read_and_printed_like_the_oracle(text: str) -> None:
    parsed, expected = version(text), oracle.Version.parse(text)
    assert str(parsed) == str(expected) == text
    assert parsed.numbers == expected.to_tuple()[:3]
    assert version(f"v{text}") == parsed


@given(versions, versions)
def test_precedence_is_that_of_the_oracle(one: str, other: str) -> None:
    a, b = version(one), version(other)
    assert (a > b) - (a < b) == oracle.Version.parse(one).compare(other)
    assert (a == b) is (oracle.Version.parse(one).compare(other) == 0)


@given(st.text("01.-+av", max_size=14))
def test_text_is_a_version_exactly_where_the_oracle_says_so(text: str) -> None:
    assert (parse_version(text) is not None) is oracle.Version.is_valid(text.removeprefix("v"))


def test_precedence_example_of_clause_11() -> None:
    ordered = ["1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta", "1.0.0-beta", "1.0.0-beta.2", "1.0.0-beta.11"]
    ordered += ["1.0.0-rc.1", "1.0.0"]
    assert sorted(sorted(ordered), key=version) == ordered


def test_build_metadata_counts_neither_for_order_nor_for_equality() -> None:
    assert version("1.0.0+a") == version("1.0.0+b")
    assert hash(version("1.0.0+a")) == hash(version("1.0.0+b"))
    assert str(version("1.0.0+a")) == "1.0.0+a"


@pytest.mark.parametrize(
    "tag", ["", "v", "v1", "1", "1.2", "v1.2", "latest", "01.2.3", "1.2.3-01", "1.2.3-", "V1.2.3", "vv1.2.3", "1.2.3\n",
            "1.2.3.4", "٣.1.2", "1.2.3-é", "1" * 5000 + ".0.0"]
)  # fmt: skip
def test_tag_that_is_no_semantic_version_never_matches(tag: str) -> None:
    assert parse_version(tag) is None
    assert not parse_range("*").matches(tag)


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("1.2.3", "1.2.3 v1.2.3 1.2.3+b", "1.2.4 1.2.3-rc.1"),
        ("=v1.2.3", "1.2.3", "1.2.2"),
        ("!=1.2.3", "1.2.4 0.0.0", "1.2.3 1.2.4-rc.1"),
        (">=1.2 <3", "1.2.0 2.99.0", "1.1.9 3.0.0 3.0.0-rc.1 2.0.0-rc.1"),
        (">=1.2,<3", "1.2.0 2.99.0", "1.1.9 3.0.0"),
        (">= 1.2 ,  < v3", "1.2.0 2.99.0", "1.1.9 3.0.0"),
        (">1.2.3", "1.2.4 2.0.0", "1.2.3"),
        (">1.2", "1.3.0 2.0.0", "1.2.0 1.2.9"),
        (">1", "2.0.0", "1.9.9"),
        ("<=1.2", "1.2.9 0.1.0", "1.3.0"),
        ("<=1.2.3", "1.2.3", "1.2.4"),
        ("<1.2", "1.1.9", "1.2.0"),
        ("1.x", "1.0.0 1.9.9", "2.0.0 0.9.0"),
        ("1.2.*", "1.2.0 1.2.9", "1.3.0"),
        ("!=1.x", "0.9.0 2.0.0", "1.0.0 1.5.0"),
        ("*", "0.0.0 99.0.0", "1.0.0-rc.1"),
        ("x.X.*", "0.0.0 99.0.0", "1.0.0-rc.1"),
        (">*", "", "0.0.0 1.0.0"),
        ("<*", "", "0.0.0 1.0.0"),
        ("~1.2.3", "1.2.3 1.2.9", "1.2.2 1.3.0"),
        ("~1.2", "1.2.0 1.2.9", "1.3.0"),
        ("~1", "1.0.0 1.9.0", "2.0.0"),
        ("~0.2.3", "0.2.3 0.2.9", "0.3.0"),
        ("~1.2.3-rc.2", "1.2.3-rc.2 1.2.3 1.2.9", "1.2.3-rc.1 1.2.4-rc.2"),
        ("^1.2.3", "1.2.3 1.9.0", "1.2.2 2.0.0 2.0.0-rc.1"),
        ("^1.2", "1.2.0 1.9.0", "1.1.0 2.0.0"),
        ("^0.2.3", "0.2.3 0.2.9", "0.3.0 0.2.2"),
        ("^0.0.3", "0.0.3", "0.0.4 0.1.0"),
        ("^0.0.0", "0.0.0", "0.0.1"),
        ("^0.0", "0.0.0 0.0.9", "0.1.0"),
        ("^0", "0.0.0 0.9.9", "1.0.0"),
        ("^0.x", "0.0.0 0.9.9", "1.0.0"),
        ("1.x || >=3.1", "1.5.0 3.1.0", "2.0.0 3.0.0"),
        ("1.2.3||4", "1.2.3 4.9.0", "2.0.0"),
    ],
)
def test_range(text: str, inside: str, outside: str) -> None:
    wanted = parse_range(text)
    assert [tag for tag in inside.split() if not wanted.matches(tag)] == []
    assert [tag for tag in outside.split() if wanted.matches(tag)] == []


def test_prerelease_matches_only_where_the_range_names_one_of_the_same_version() -> None:
    wanted = parse_range(">=1.2.3-beta <2")
    assert wanted.matches("1.2.3-beta.2")
    assert not wanted.matches("1.2.3-alpha")
    assert not wanted.matches("1.2.4-beta")


def test_prerelease_named_in_one_alternative_is_not_let_in_by_another() -> None:
    assert not parse_range("1.2.3-alpha || <2").matches("1.2.3-beta")


def test_leaving_out_one_prerelease_lets_no_other_in() -> None:
    assert not parse_range(">=1 !=1.2.3-rc.1").matches("1.2.3-rc.2")


@given(ranges)
def test_range_survives_printing(text: str) -> None:
    parsed = parse_range(text)
    assert parse_range(str(parsed)) == parsed


@given(st.sampled_from(["=", "!=", ">", ">=", "<", "<="]), versions, versions)
def test_comparison_with_a_complete_version_is_that_of_the_oracle(operator: str, bound: str, tag: str) -> None:
    compared = oracle.Version.parse(tag).compare(bound)
    expected = {"=": compared == 0, "!=": compared != 0, ">": compared > 0, ">=": compared >= 0, "<": compared < 0}
    expected["<="] = compared <= 0
    [[comparator]] = parse_range(operator + bound).alternatives
    assert comparator.holds(version(tag)) is expected[operator]


@given(partials)
def test_opposite_operators_share_the_releases_between_them(bound: str) -> None:
    for tag in (f"{a}.{b}.{c}" for a, b, c in itertools.product(range(4), repeat=3)):
        for one, other in (("=", "!="), ("<", ">="), (">", "<=")):
            assert parse_range(one + bound).matches(tag) is not parse_range(other + bound).matches(tag)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "missing at the end"),
        (">=1 ||", "missing at the end"),
        (">=1,", "missing at the end"),
        (">=1,,<2", "missing at ',<2'"),
        (">=", "missing"),
        ("latest", "'latest' is no version"),
        ("1.2 - 3", "'-' is no version"),
        ("==1", "missing"),
        (">=1<2", "comma or space is missing before '<2'"),
        ("1.x.3", "'1.x.3' is no version"),
        ("1.2-rc.1", "'1.2-rc.1' is no version"),
        ("01.2", "'01.2' is no version"),
        ("1.2.3 | 2", "missing"),
        ("1" * 513, "513 characters"),
    ],
)
def test_refused_range_says_what_is_wrong(text: str, reason: str) -> None:
    with pytest.raises(NotARange) as refusal:
        parse_range(text)
    assert reason in str(refusal.value)


@given(st.text("0123.x*v-+<>=!~^|, ab", max_size=20))
def test_any_text_is_a_range_or_refused(text: str) -> None:
    try:
        parsed = parse_range(text)
    except NotARange:
        return
    assert parse_range(str(parsed)) == parsed
