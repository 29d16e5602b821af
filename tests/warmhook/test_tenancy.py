"""A WarmImage gets no more than its namespace may have, and the rest of it works."""

from __future__ import annotations

from dataclasses import replace

import pytest

from warmhook.images import parse_reference
from warmhook.labels import Requirement, Selector
from warmhook.limits import HIGHEST_PRIORITY, PERMISSIONS, Limits, Tenancy
from warmhook.node_lines import Line, over_budget
from warmhook.placement import ANY_LINUX_NODE, Node, place
from warmhook.shares import Room
from warmhook.tenancy import permitted, problems
from warmhook.warmimages import Nodes, ObjectKey, Pull, Template, WarmImage

POOL = Selector((Requirement("pool", "In", ("teams",)),))
ASKS_FOR_ALL = WarmImage(
    ObjectKey("shop", "web"),
    parse_reference("harbor.example.com/shop/web:1"),
    template=Template(
        pull=Pull(priority=HIGHEST_PRIORITY + 1, pinned=True, secrets=("regcred",), timeout_seconds=60),
        on_removal="Delete",
    ),
)


def limited(limits: Limits, warmimage: WarmImage = ASKS_FOR_ALL) -> WarmImage:
    return permitted(replace(warmimage, limits=limits))


def test_by_default_a_namespace_deletes_pins_and_shares_nothing() -> None:
    got = limited(Limits())
    assert got.template == Template(pull=Pull(priority=HIGHEST_PRIORITY, timeout_seconds=60))
    assert [problem.partition(":")[0] for problem in problems(replace(ASKS_FOR_ALL, limits=Limits()))] == [
        "spec.pull.priority",
        "spec.pull.pinned",
        "spec.pull.sharePrivate",
        "spec.onRemoval",
    ]


def test_what_is_allowed_stays_as_it_is() -> None:
    limits = Limits(highest_priority=1000, allow=PERMISSIONS)
    assert limited(limits) == ASKS_FOR_ALL
    assert list(problems(replace(ASKS_FOR_ALL, limits=limits))) == []


def test_an_image_that_a_namespace_may_not_have_is_on_no_node() -> None:
    limits = Limits(images=("harbor.example.com/teams/**",), allow=PERMISSIONS, highest_priority=1000)
    got = limited(limits)
    node = Node("n1", "u1", {"kubernetes.io/os": "linux"})
    assert place(str(got.image), got.template.nodes, [node]) == []
    assert [problem.partition(":")[0] for problem in problems(replace(ASKS_FOR_ALL, limits=limits))] == ["spec.image"]
    teams = replace(ASKS_FOR_ALL, image=parse_reference("harbor.example.com/teams/a/web:1"))
    assert limited(limits, teams) == teams


@pytest.mark.parametrize("nodes", [Nodes(), Nodes(names=("in", "out")), Nodes(Selector())])
def test_a_selector_and_names_never_leave_the_nodes_of_the_namespace(nodes: Nodes) -> None:
    linux = {"kubernetes.io/os": "linux"}
    every = [Node("in", "1", {**linux, "pool": "teams"}), Node("out", "2", {**linux, "pool": "other"})]
    wanted = limited(
        Limits(nodes=POOL), WarmImage(ObjectKey("shop", "web"), ASKS_FOR_ALL.image, template=Template(nodes))
    )
    assert [node.name for node in place("x", wanted.template.nodes, every)] == ["in"]


def test_the_default_selector_still_counts_beside_the_nodes_of_the_namespace() -> None:
    wanted = limited(Limits(nodes=POOL))
    assert wanted.template.nodes.selector == Selector((*ANY_LINUX_NODE.requirements, *POOL.requirements))


def test_the_first_matching_rule_counts_and_without_one_the_defaults() -> None:
    first, second = Limits(highest_priority=1), Limits(highest_priority=2)
    tenancy = Tenancy((("team-a*", first), ("team-*", second)))
    assert [tenancy.of(name) for name in ("team-ab", "team-b", "shop")] == [first, second, Limits()]


def test_a_namespace_has_no_more_lines_and_bytes_on_a_node_than_its_own_however_empty_the_node_is() -> None:
    def lines(namespace: str, many: int) -> list[Line]:
        return [Line(ObjectKey(namespace, f"w{at}"), "ghcr.io/shop/app:1", since=float(at)) for at in range(many)]

    few = Tenancy((("few", Limits(room=Room(3, 10_000))), ("short", Limits(room=Room(100, 500)))))
    refused = over_budget([*lines("few", 5), *lines("short", 50), *lines("other", 100)], few)
    assert refused >= {line.key for line in lines("few", 2)}
    assert not refused & {line.key for line in [*lines("few", 5)[2:], *lines("other", 100)]}
    assert 40 < len(refused & {line.key for line in lines("short", 50)}) < 50
