"""Pods match nodes as in a second, straightforward implementation of the rules of the scheduler."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import pytest

from warmhook.admission_review import Admitted, read_pod
from warmhook.labels import NotASelector, Requirement, Selector, TooManyTerms
from warmhook.node_affinity import (
    PARTS_MAX,
    TERMS_MAX,
    Constraints,
    Term,
    affinity_object,
    intersect,
    matches_node,
    parse_affinity,
)
from warmhook.placement import Node, node_selector, place, reads_taints
from warmhook.taints import TOLERATIONS_MAX, Taint, Toleration, parse_tolerations, tolerates, toleration_object
from warmhook.warmimages import Limit, Nodes

KEYS = ("zone", "cores", "gpu", "kubernetes.io/os")
VALUES = ("a", "b", "4", "16", "linux", "")
EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")
TAINTS = ("dedicated", "gpu", "node.kubernetes.io/not-ready", "node.kubernetes.io/disk-pressure")
PASSING = {"node.kubernetes.io/not-ready"}


# --- a second implementation, over the objects as they are -----------------------------------------------------------


def expression_holds(expression: dict[str, Any], found: dict[str, str]) -> bool:
    key, values, there = expression["key"], expression.get("values") or [], expression["key"] in found
    if expression["operator"] == "Exists":
        return there
    if expression["operator"] == "DoesNotExist":
        return not there
    if expression["operator"] == "In":
        return there and found[key] in values
    if expression["operator"] == "NotIn":
        return not there or found[key] not in values
    try:
        number, bound = int(found.get(key, "")), int(values[0])
    except ValueError:
        return False
    return number > bound if expression["operator"] == "Gt" else number < bound


def lands(pod: dict[str, Any], node: dict[str, Any]) -> bool:
    return is_allowed(pod["spec"], node) and is_tolerated(pod["spec"], node)


def is_allowed(spec: dict[str, Any], node: dict[str, Any]) -> bool:
    labels = node["metadata"]["labels"]
    if any(labels.get(key) != value for key, value in spec.get("nodeSelector", {}).items()):
        return False
    if spec.get("nodeName", node["metadata"]["name"]) != node["metadata"]["name"]:
        return False
    required = spec.get("affinity", {}).get("nodeAffinity", {}).get("requiredDuringSchedulingIgnoredDuringExecution")
    if required is None:
        return True
    for term in required["nodeSelectorTerms"]:
        expressions, fields = term.get("matchExpressions", []), term.get("matchFields", [])
        names = {"metadata.name": node["metadata"]["name"]}
        if (expressions or fields) and all(
            [expression_holds(it, labels) for it in expressions] + [expression_holds(it, names) for it in fields]
        ):
            return True
    return False


def is_tolerated(spec: dict[str, Any], node: dict[str, Any]) -> bool:
    taints = list(node["spec"]["taints"])
    if node["spec"]["unschedulable"]:
        taints.append({"key": "node.kubernetes.io/unschedulable", "value": "", "effect": "NoSchedule"})
    for taint in taints:
        if taint["effect"] == "PreferNoSchedule" or taint["key"] in PASSING:
            continue
        for toleration in spec.get("tolerations", []):
            same_effect = not toleration.get("effect") or toleration["effect"] == taint["effect"]
            same_key = not toleration.get("key") or toleration["key"] == taint["key"]
            exists = toleration.get("operator") == "Exists"
            if same_effect and same_key and (exists or toleration.get("value", "") == taint["value"]):
                break
        else:
            return False
    return True


def some(rng: Random, most: int, make: Any) -> list[Any]:
    return [make(rng) for _ in range(rng.randrange(most + 1))]


def random_expression(rng: Random) -> dict[str, Any]:
    operator = rng.choice(("In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"))
    expression: dict[str, Any] = {"key": rng.choice(KEYS), "operator": operator}
    if operator in ("In", "NotIn"):
        expression["values"] = rng.sample(VALUES, rng.randrange(1, 4))
    elif operator in ("Gt", "Lt"):
        expression["values"] = [rng.choice(("1", "4", "8"))]
    return expression


def random_field(rng: Random) -> dict[str, Any]:
    return {"key": "metadata.name", "operator": rng.choice(("In", "NotIn")), "values": [f"n{rng.randrange(5)}"]}


def random_term(rng: Random) -> dict[str, Any]:
    return {"matchExpressions": some(rng, 3, random_expression), "matchFields": some(rng, 1, random_field)}


def random_toleration(rng: Random) -> dict[str, Any]:
    toleration = {"operator": rng.choice(("Exists", "Equal"))}
    if rng.random() < 0.8:
        toleration["key"] = rng.choice((*TAINTS, "node.kubernetes.io/unschedulable"))
    if toleration["operator"] == "Equal" and rng.random() < 0.7:
        toleration["value"] = rng.choice(("a", "b", ""))
    if rng.random() < 0.5:
        toleration["effect"] = rng.choice(EFFECTS)
    return toleration


def random_pod(rng: Random) -> dict[str, Any]:
    spec: dict[str, Any] = {"containers": [{"image": "nginx"}]}
    if rng.random() < 0.3:
        spec["nodeSelector"] = {rng.choice(KEYS): rng.choice(VALUES)}
    if rng.random() < 0.6:
        terms = [random_term(rng) for _ in range(rng.randrange(1, 4))]
        required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
        spec["affinity"] = {"nodeAffinity": required}
    if rng.random() < 0.05:
        spec["nodeName"] = f"n{rng.randrange(5)}"
    spec["tolerations"] = some(rng, 3, random_toleration)
    return {"metadata": {"name": "p"}, "spec": spec}


def random_node(rng: Random, name: str) -> dict[str, Any]:
    labels = {key: rng.choice(VALUES) for key in KEYS if rng.random() < 0.6}
    taints = {
        (rng.choice(TAINTS), rng.choice(EFFECTS)): rng.choice(("a", "b", "")) for _ in range(rng.choice((0, 0, 1, 2)))
    }
    spec = {
        "taints": [{"key": key, "effect": effect, "value": value} for (key, effect), value in taints.items()],
        "unschedulable": rng.random() < 0.1,
    }
    return {"metadata": {"name": name, "labels": labels}, "spec": spec}


def value_of(node: dict[str, Any]) -> Node:
    taints = tuple(Taint(it["key"], it["value"], it["effect"]) for it in node["spec"]["taints"])
    metadata = node["metadata"]
    return Node(metadata["name"], "u", metadata["labels"], taints, node["spec"]["unschedulable"])


@pytest.mark.slow
def test_for_a_thousand_pods_and_nodes_both_implementations_agree() -> None:
    rng = Random(20)
    feasible = 0
    nodes = [random_node(rng, f"n{number}") for number in range(1000)]
    for _ in range(1000):
        pod, around = random_pod(rng), rng.sample(nodes, 30)
        admitted = read_pod(pod, "shop")
        assert admitted is not None
        constraints = admitted.constraints
        wanted = Nodes(Selector(), affinity=constraints.affinity, tolerations=constraints.tolerations)
        listed = [value_of(it) for it in around if node_selector(wanted).matches(it["metadata"]["labels"])]
        placed = {node.name for node in place("x", wanted, listed)}
        assert placed == {it["metadata"]["name"] for it in around if lands(pod, it)}, json.dumps(pod)
        feasible += len(placed)
    assert 3000 < feasible < 20_000


def test_constraints_that_are_written_are_read_back_as_the_same_values() -> None:
    rng = Random(3)
    for _ in range(300):
        admitted = read_pod(random_pod(rng), "shop")
        assert admitted is not None
        found = admitted.constraints
        if found.affinity is not None:
            assert parse_affinity(affinity_object(found.affinity)) == found.affinity
        assert parse_tolerations([toleration_object(it) for it in found.tolerations]) == found.tolerations


def test_order_does_not_make_other_constraints() -> None:
    first, second = {"key": "a", "operator": "Exists"}, {"key": "b", "operator": "In", "values": ["2", "1"]}
    turned = {"key": "b", "operator": "In", "values": ["1", "2", "1"]}
    one = parse_affinity({"nodeSelectorTerms": [{"matchExpressions": [first, second]}, {"matchExpressions": [first]}]})
    two = parse_affinity({"nodeSelectorTerms": [{"matchExpressions": [first]}, {"matchExpressions": [turned, first]}]})
    assert one == two
    assert Constraints(one).canonical() == Constraints(two).canonical()


def test_both_affinities_hold_together_and_in_either_order() -> None:
    rng = Random(4)
    for _ in range(300):
        one, two = (
            parse_affinity({"nodeSelectorTerms": [random_term(rng) for _ in range(rng.randrange(1, 3))]})
            for _ in range(2)
        )
        joined = intersect(one, two)
        assert joined is not None
        assert joined == intersect(two, one)
        for number in range(10):
            node = value_of(random_node(rng, f"n{number}"))
            allowed = matches_node(one, node.name, node.labels) and matches_node(two, node.name, node.labels)
            assert matches_node(joined, node.name, node.labels) == allowed
    assert intersect(None, one) == intersect(one, None) == one


def test_too_many_parts_are_refused() -> None:
    exists = {"key": "a", "operator": "Exists"}
    terms = [{"matchExpressions": [{**exists, "key": f"k{n}"}]} for n in range(TERMS_MAX + 1)]
    with pytest.raises(TooManyTerms):
        parse_affinity({"nodeSelectorTerms": terms})
    with pytest.raises(TooManyTerms):
        parse_affinity({"nodeSelectorTerms": [{"matchExpressions": [exists] * (TERMS_MAX + 1)}]})
    values = [f"v{n}" for n in range(PARTS_MAX // 8)]
    large = [{"matchExpressions": [{"key": f"k{n}", "operator": "NotIn", "values": values}]} for n in range(8)]
    with pytest.raises(TooManyTerms):
        parse_affinity({"nodeSelectorTerms": large})
    with pytest.raises(TooManyTerms):
        intersect(parse_affinity({"nodeSelectorTerms": large[:4]}), parse_affinity({"nodeSelectorTerms": large[4:7]}))
    with pytest.raises(TooManyTerms):
        intersect(*[parse_affinity({"nodeSelectorTerms": terms[:9]})] * 2)
    with pytest.raises(TooManyTerms):
        parse_tolerations([{"key": f"k{n}", "operator": "Exists"} for n in range(TOLERATIONS_MAX + 1)])


@pytest.mark.parametrize(
    "term",
    [
        {"matchExpressions": [{"key": "a", "operator": "Gt", "values": ["four"]}]},
        {"matchExpressions": [{"key": "a", "operator": "In", "values": []}]},
        {"matchExpressions": [{"key": "a", "operator": "Near", "values": ["b"]}]},
        {"matchFields": [{"key": "metadata.uid", "operator": "In", "values": ["b"]}]},
        {"matchFields": [{"key": "metadata.name", "operator": "Exists"}]},
        {"matchFields": [{"key": "metadata.name", "operator": "In", "values": []}]},
        {"matchExpressions": {}},
        7,
    ],
)
def test_a_term_that_cannot_be_read_matches_nothing_and_is_refused_where_a_person_writes_it(term: object) -> None:
    assert parse_affinity({"nodeSelectorTerms": [term]}, strict=False) == ()
    with pytest.raises(NotASelector):
        parse_affinity({"nodeSelectorTerms": [term]})


def test_no_terms_match_no_node() -> None:
    assert not matches_node((), "n", {})
    assert not matches_node((Term(),), "n", {})


@pytest.mark.parametrize("state", ["not-ready", "unreachable", "network-unavailable", "memory-pressure"])
def test_a_taint_that_passes_by_itself_keeps_nobody_off(state: str) -> None:
    assert tolerates([Taint(f"node.kubernetes.io/{state}", "", "NoExecute")], False, ())


def test_a_cordoned_node_takes_only_who_tolerates_that() -> None:
    assert not tolerates([], True, ())
    assert tolerates([], True, [Toleration("node.kubernetes.io/unschedulable", "Exists")])


def test_tolerations_of_what_passes_are_left_out() -> None:
    given = [{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute"}, {"bad": 1}, 7]
    assert parse_tolerations(given) == (Toleration(),)
    assert parse_tolerations([{"operator": "Near", "key": "a"}, {"key": 5}]) == ()


@pytest.mark.parametrize(
    "key",
    [
        "node.cilium.io/agent-not-ready",
        "ebs.csi.aws.com/agent-not-ready",
        "karpenter.sh/unregistered",
        "startup-taint.cluster-autoscaler.kubernetes.io/drivers",
        "ignore-taint.cluster-autoscaler.kubernetes.io/drivers",
    ],
)
def test_a_taint_of_a_nodes_first_minute_keeps_no_image_away(key: str) -> None:
    assert tolerates([Taint(key)], False, ())
    assert parse_tolerations([{"key": key, "operator": "Exists"}]) == ()


@pytest.mark.parametrize(
    ("operator", "value", "taint", "tolerated"),
    [
        ("Gt", "3", "4", True),
        ("Gt", "3", "3", False),
        ("Lt", "3", "-2", True),
        ("Lt", "3", "3", False),
        ("Lt", "3", "x", False),
        ("Gt", "", "4", False),
        ("Gt", "03", "4", False),
    ],
)
def test_gt_and_lt_compare_the_taints_value_as_an_integer(
    operator: str, value: str, taint: str, tolerated: bool
) -> None:
    (toleration,) = parse_tolerations([{"key": "a", "operator": operator, "value": value}])
    assert tolerates([Taint("a", taint)], False, [toleration]) is tolerated


def test_taints_matter_only_where_tolerations_are_given() -> None:
    node = Node("n", "u", {"kubernetes.io/os": "linux"}, (Taint("gpu"),), unschedulable=True)
    assert [it.name for it in place("x", Nodes(), [node])] == ["n"]
    assert place("x", Nodes(tolerations=()), [node]) == []
    assert not reads_taints([])


def test_a_limit_counts_feasible_nodes_only() -> None:
    nodes = [Node(f"n{n}", "u", {"kubernetes.io/os": "linux"}, (Taint("gpu"),) if n % 2 else ()) for n in range(10)]
    chosen = place("x", Nodes(tolerations=(), limit=Limit(50, percent=True)), nodes)
    assert len(chosen) == 3
    assert all(not node.taints for node in chosen)


def test_one_term_narrows_what_the_api_server_lists() -> None:
    term = Term((Requirement("pool", "In", ("web",)), Requirement("cores", "Gt", ("4",))))
    assert node_selector(Nodes(Selector(), affinity=(term,))).query() == "pool=web"
    assert node_selector(Nodes(Selector(), affinity=(term, term))).query() == ""


def test_a_pods_own_words_become_constraints() -> None:
    pod = Admitted(
        "shop", "Deployment/web", (), node_selector={"pool": "web"}, affinity=(Term((Requirement("a", "Exists"),)),)
    )
    (term,) = pod.constraints.affinity or ()
    assert term.expressions == (Requirement("a", "Exists"), Requirement("pool", "In", ("web",)))
    assert Admitted("shop", "Pod/p", (), node_selector={"no key!": "x"}).constraints.affinity == ()
