"""Labels match selectors with the meaning, syntax and query string of apimachinery."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmhook.labels import (
    LABEL_OPERATORS,
    NODE_OPERATORS,
    NotASelector,
    Operator,
    Requirement,
    Selector,
    parse_requirement,
    parse_selector,
)

keys = st.sampled_from(["pool", "zone", "in", "kubernetes.io/os"])
values = st.sampled_from(["", "web", "db", "notin", "5"])
label_maps = st.dictionaries(keys, values)
expressions = st.one_of(
    st.fixed_dictionaries(
        {"key": keys, "operator": st.sampled_from(["In", "NotIn"]), "values": st.lists(values, min_size=1, max_size=3)}
    ),
    st.fixed_dictionaries({"key": keys, "operator": st.sampled_from(["Exists", "DoesNotExist"])}),
)
selectors = st.fixed_dictionaries(
    {}, optional={"matchLabels": label_maps, "matchExpressions": st.lists(expressions, max_size=3)}
)


@pytest.mark.parametrize("obj", [{}, {"matchLabels": {}}, {"matchLabels": None, "matchExpressions": None}])
def test_empty_selector_matches_everything(obj: dict[str, Any]) -> None:
    selector = parse_selector(obj)
    assert selector == Selector()
    assert selector.matches({})
    assert selector.matches({"pool": "web"})
    assert selector.query() == ""


@pytest.mark.parametrize(
    ("operator", "listed", "satisfied"),
    [
        ("In", ("web", "db"), ["web", "db"]),
        ("NotIn", ("web", "db"), [None, "", "5"]),
        ("Exists", (), ["", "web", "db", "5"]),
        ("DoesNotExist", (), [None]),
        ("Gt", ("4",), ["5"]),
        ("Gt", ("5",), []),
        ("Lt", ("6",), ["5"]),
        ("Lt", ("5",), []),
    ],
)
def test_operator(operator: Operator, listed: tuple[str, ...], satisfied: list[str | None]) -> None:
    requirement = Requirement("pool", operator, listed)
    seen = [
        value for value in (None, "", "web", "db", "5") if requirement.matches({} if value is None else {"pool": value})
    ]
    assert seen == satisfied


@pytest.mark.parametrize(
    "label", ["", "a", "5_0", " 5", "\N{ARABIC-INDIC DIGIT FIVE}", "99999999999999999999", "9" * 5000]
)
def test_label_that_is_no_integer_is_neither_greater_nor_less(label: str) -> None:
    assert not Requirement("cores", "Gt", ("4",)).matches({"cores": label})
    assert not Requirement("cores", "Lt", ("4",)).matches({"cores": label})


@given(selectors, label_maps)
def test_selector_matches_where_each_part_does(obj: dict[str, Any], labels: dict[str, str]) -> None:
    wanted = obj.get("matchLabels", {})
    parts = [parse_selector({"matchExpressions": [expression]}) for expression in obj.get("matchExpressions", [])]
    expected = wanted.items() <= labels.items() and all(part.matches(labels) for part in parts)
    assert parse_selector(obj).matches(labels) is expected


@given(keys, st.lists(values, min_size=1), label_maps)
def test_opposite_operators_share_all_labels_between_them(key: str, listed: list[str], labels: dict[str, str]) -> None:
    for one, other, taken in (("In", "NotIn", listed), ("Exists", "DoesNotExist", [])):
        first, second = (
            parse_requirement({"key": key, "operator": name, "values": taken}).matches(labels) for name in (one, other)
        )
        assert first is not second


@pytest.mark.parametrize(
    ("obj", "query"),
    [
        ({"matchLabels": {"pool": "web", "arch": "arm64"}}, "arch=arm64,pool=web"),
        ({"matchLabels": {"pool": ""}}, "pool="),
        ({"matchExpressions": [{"key": "pool", "operator": "In", "values": ["web", "db", "web"]}]}, "pool in (db,web)"),
        ({"matchExpressions": [{"key": "pool", "operator": "NotIn", "values": ["web", "db"]}]}, "pool notin (db,web)"),
        ({"matchExpressions": [{"key": "pool", "operator": "NotIn", "values": ["web"]}]}, "pool!=web"),
        ({"matchExpressions": [{"key": "pool", "operator": "In", "values": ["web", ""]}]}, "pool in (,web)"),
        ({"matchExpressions": [{"key": "pool", "operator": "Exists"}]}, "pool"),
        ({"matchExpressions": [{"key": "a.io/pool", "operator": "DoesNotExist", "values": []}]}, "!a.io/pool"),
        ({"matchLabels": {"z": "1"}, "matchExpressions": [{"key": "a", "operator": "Exists"}]}, "z=1,a"),
    ],
)
def test_query_string(obj: dict[str, Any], query: str) -> None:
    assert parse_selector(obj).query() == query


@pytest.mark.parametrize("operator", ["Gt", "Lt"])
def test_integer_comparison_has_no_query_string(operator: str) -> None:
    requirement = parse_requirement({"key": "cores", "operator": operator, "values": ["4"]})
    with pytest.raises(NotASelector, match="cannot be asked"):
        Selector((requirement,)).query()


def test_label_selectors_know_four_operators_and_node_selectors_six() -> None:
    assert LABEL_OPERATORS == ("In", "NotIn", "Exists", "DoesNotExist")
    assert (*LABEL_OPERATORS, "Gt", "Lt") == NODE_OPERATORS


@pytest.mark.parametrize("key", ["a", "A.b_c-9", "a" * 63, "example.com/name", "1.2/x", "a" * 63 + ".io/x"])
def test_key_is_taken(key: str) -> None:
    assert parse_selector({"matchLabels": {key: "x"}}).matches({key: "x"})


@pytest.mark.parametrize(
    "key",
    ["", "/", "a/", "/a", "a/b/c", "-a", "a-", "a" * 64, "E.io/a", "a..b/c", "a b", "a\n", "é", "a." * 127 + "a/b"],
)
def test_key_is_refused(key: str) -> None:
    with pytest.raises(NotASelector, match=r"^matchLabels: .* is no label key"):
        parse_selector({"matchLabels": {key: "x"}})


@pytest.mark.parametrize("value", ["-a", "a-", "a" * 64, "a b", "a/b", "a\n", "é", 5, None, True])
def test_value_is_refused(value: object) -> None:
    with pytest.raises(NotASelector, match=r"^matchLabels\[pool\]: .* is no label value"):
        parse_selector({"matchLabels": {"pool": value}})


def expression(**changes: object) -> dict[str, Any]:
    return {"matchExpressions": [{"key": "pool", "operator": "In", "values": ["web"]} | changes]}


@pytest.mark.parametrize(
    ("obj", "message"),
    [
        ({"matchLabel": {}}, "matchLabel: unknown field"),
        ({"matchLabels": []}, "matchLabels: must be a map"),
        ({"matchExpressions": {}}, "matchExpressions: must be a list"),
        ({"matchExpressions": ["pool"]}, "matchExpressions[0]: must be a map"),
        (expression(value="web"), "matchExpressions[0].value: unknown field"),
        (expression(key=None), "matchExpressions[0].key: None is no label key"),
        (expression(operator="in"), "matchExpressions[0].operator: 'in' is none of In, NotIn, Exists, DoesNotExist"),
        (expression(operator="Gt", values=["4"]), "matchExpressions[0].operator: 'Gt' is none of"),
        (expression(operator=[]), "matchExpressions[0].operator: [] is none of"),
        (expression(values="web"), "matchExpressions[0].values: must be a list"),
        (expression(values="", operator="Exists"), "matchExpressions[0].values: must be a list"),
        (expression(values=[]), "matchExpressions[0].values: In needs at least one value"),
        (expression(values=None, operator="NotIn"), "matchExpressions[0].values: NotIn needs at least one value"),
        (expression(values=["a", "b c"]), "matchExpressions[0].values[1]: 'b c' is no label value"),
        (expression(operator="Exists"), "matchExpressions[0].values: Exists takes no values"),
        (expression(operator="DoesNotExist"), "matchExpressions[0].values: DoesNotExist takes no values"),
    ],
)
def test_refused_selector_says_where_and_what(obj: dict[str, Any], message: str) -> None:
    with pytest.raises(NotASelector) as refusal:
        parse_selector(obj)
    assert str(refusal.value).startswith(message)


@pytest.mark.parametrize("listed", [[], ["4", "5"], ["four"], ["-4"], ["9" * 63]])
def test_integer_comparison_takes_one_integer(listed: list[str]) -> None:
    with pytest.raises(NotASelector, match=r"^term\.values"):
        parse_requirement({"key": "cores", "operator": "Gt", "values": listed}, "term")


@given(st.dictionaries(st.text(max_size=3) | st.just("matchLabels"), st.none() | st.lists(st.integers()) | st.text()))
def test_any_object_is_a_selector_or_refused(obj: dict[str, Any]) -> None:
    try:
        parsed = parse_selector(obj)
    except NotASelector:
        return
    assert parsed == Selector()
