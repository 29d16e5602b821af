"""The pages show what their reader may see, what fails first, and what is known of a push."""

from __future__ import annotations

from datetime import timedelta

from tests.warmhook.inventories import NOW, add, image, version
from warmhook.inventory import ALL_RIGHTS, DesiredFacts, Inventory, ReportFacts, Rights
from warmhook.object_pages import failed_nodes, image_page, node_page
from warmhook.overview import Overview, Tally
from warmhook.overview_rows import Selection, count_all, overview
from warmhook.status import Failure

SHOP = Rights(frozenset({"shop"}), nodes=True)
BLIND = Rights(frozenset({"shop"}))


def shown(inventory: Inventory, rights: Rights = ALL_RIGHTS, **asked: object) -> Overview:
    return overview(inventory, count_all(inventory), rights, Selection(**asked), NOW)  # type: ignore[arg-type]


def names(page: Overview) -> list[str]:
    return [row.warmimage.name for row in page.rows]


def test_what_fails_is_first_then_what_is_under_way_then_the_newest() -> None:
    inventory = Inventory()
    old, new = image("old", pushed_at=NOW - timedelta(days=2)), image("new", pushed_at=NOW)
    add(inventory, "a", {old: "warm", new: "warm", image("slow"): "pulling", image("bad"): "failed"})
    assert names(shown(inventory)) == ["bad", "slow", "new", "old"]


def test_filters_narrow_what_is_shown_and_what_is_failing() -> None:
    inventory = Inventory()
    bad = image("bad", failures=(Failure("a", "NotFound", "no such tag"),))
    add(inventory, "a", {bad: "failed", image("web"): "warm", image("vault", "bank"): "warm"})
    assert names(shown(inventory, state="failed")) == ["bad"]
    assert names(shown(inventory, namespace="bank")) == ["vault"]
    assert names(shown(inventory, text="SHOP/W")) == ["web"]
    assert shown(inventory, namespace="bank").failing == ()
    (entry,) = shown(inventory).failing
    assert (entry.reason, entry.nodes, entry.count, entry.message) == ("NotFound", ("a",), 1, "no such tag")


def test_a_reader_of_one_namespace_gets_no_count_of_another() -> None:
    inventory = Inventory()
    vault = image("vault", "bank", failures=(Failure("a", "NotFound"),))
    add(inventory, "a", {image("web"): "warm", vault: "failed"})
    for by in ("pool", "zone", "node"):
        page = shown(inventory, SHOP, dimension=by)
        assert "bank" not in repr((page.rows, page.failing, page.checks))
        assert [row.total for row in page.rows] == [Tally(warm=1)]


def test_who_may_not_see_nodes_gets_one_group_without_a_name() -> None:
    inventory = Inventory()
    web = image("web", failures=(Failure("secret-node", "NotFound"),))
    add(inventory, "secret-node", {web: "failed"}, pool="gold", zone="north")
    for by in ("pool", "zone", "node"):
        page = shown(inventory, BLIND, dimension=by)
        assert not {"secret-node", "gold", "north"} & set(repr(page).replace("'", " ").split())
        assert [(group.name, group.nodes) for group in page.groups] == [("", 1)]
        assert page.rows[0].by_group == (Tally(failed=1),)
    found = image_page(inventory, count_all(inventory), BLIND, web, {})
    assert "secret-node" not in repr(found)


def test_by_node_each_node_has_one_byte_and_named_reasons_have_their_own_kind() -> None:
    inventory = Inventory()
    web = image("web", failures=(Failure("b", "NotFound"), Failure("gone", "NotFound")))
    add(inventory, "a", {web: "warm"}, pool="x")
    add(inventory, "b", {web: "failed"}, pool="x")
    add(inventory, "c", {web: "failed"})
    add(inventory, "d", {})
    page = shown(inventory, dimension="node")
    (row,) = page.rows
    assert [group.name for group in page.groups] == ["a", "b", "c", "d"]
    kinds = [row.kinds[code - 1] if code else None for code in row.cells]
    assert [(kind.state, kind.reason) if kind else None for kind in kinds] == [
        ("warm", ""),
        ("failed", "NotFound"),
        ("failed", ""),
        None,
    ]


def test_nodes_of_another_platform_count_as_failed_although_they_have_no_line() -> None:
    inventory = Inventory()
    web = image("web", limited_platforms=True, counted=Tally(warm=1, failed=2))
    add(inventory, "a", {web: "warm"})
    assert shown(inventory).rows[0].total == Tally(warm=1, failed=2)


def test_an_image_that_has_ended_keeps_the_counts_of_its_status() -> None:
    inventory = Inventory()
    done = image("done", complete=True, counted=Tally(warm=7), ready=True)
    inventory.set_image(done)
    assert shown(inventory).rows[0].total == Tally(warm=7)


def test_more_failures_than_a_status_names_are_said_to_be_unnamed() -> None:
    inventory = Inventory()
    failures = (Failure("a", "NotFound"), Failure("b", "Timeout"))
    web = image("web", failures=failures)
    for node in "abcd":
        add(inventory, node, {web: "failed"})
    assert {(entry.reason, entry.count) for entry in shown(inventory).failing} == {
        ("NotFound", 1),
        ("Timeout", 1),
        ("NotNamed", 2),
    }


def test_silent_agents_and_full_nodes_are_said_to_those_who_may_see_nodes() -> None:
    inventory, web = Inventory(), image("web")
    add(inventory, "a", {web: "warm"}, silent=True)
    add(inventory, "b", {}, refused=[web])
    assert {check.reason for check in shown(inventory).checks} == {"NoAgent", "TooManyLines"}
    assert shown(inventory, BLIND).checks == ()
    assert {(entry.reason, entry.nodes) for entry in shown(inventory).failing} >= {("Unreachable", ("a",))}


def test_a_node_without_room_for_an_image_of_others_is_no_news_for_a_tenant() -> None:
    inventory, vault = Inventory(), image("vault", "bank")
    add(inventory, "a", {}, refused=[vault])
    assert shown(inventory, SHOP).checks == ()
    of_tenant, of_all = (node_page(inventory, rights, "a", {}, NOW) for rights in (SHOP, ALL_RIGHTS))
    assert of_tenant is not None
    assert of_all is not None
    assert (of_tenant.truncated, of_all.truncated) == (False, True)


def test_an_image_that_nobody_can_use_is_failing_as_a_whole() -> None:
    inventory = Inventory()
    inventory.set_image(image("web", reason="Invalid", message="spec.image: no"))
    (entry,) = shown(inventory).failing
    assert (entry.reason, entry.count, entry.message) == ("Invalid", 0, "spec.image: no")


def test_the_page_of_an_image_names_failed_nodes_first_with_the_reasons_of_their_reports() -> None:
    inventory, web = Inventory(), image("web")
    add(inventory, "a", {web: "warm"})
    add(inventory, "b", {web: "failed"})
    assert failed_nodes(inventory, web) == ["b"]
    page = image_page(inventory, count_all(inventory), ALL_RIGHTS, web, {"b": ("NotFound", "no such tag")})
    assert [(cell.node, cell.state, cell.reason) for cell in page.cells] == [
        ("b", "failed", "NotFound"),
        ("a", "warm", ""),
    ]


def test_the_page_of_a_node_has_the_images_that_the_reader_may_see() -> None:
    inventory, web, vault = Inventory(), image("web"), image("vault", "bank")
    add(inventory, "a", {web: "failed", vault: "warm"}, pool="gold")
    page = node_page(inventory, SHOP, "a", {web.line_key: ("Timeout", "slow")}, NOW)
    assert page is not None
    assert [(key.name, cell.reason) for key, (_image, cell) in page.images.items()] == [("web", "Timeout")]
    assert (page.group, page.reachable) == ("gold", True)
    assert node_page(inventory, SHOP, "none", {}, NOW) is None


def test_a_change_counts_for_those_who_may_see_it_and_for_nobody_else() -> None:
    inventory, web, vault = Inventory(), image("web"), image("vault", "bank")
    add(inventory, "a", {web: "waiting", vault: "waiting"})
    before, all_before = inventory.change_number(BLIND), inventory.change_number(ALL_RIGHTS)
    # A sign of life alone changes nothing.
    report = inventory.report_of("a")
    inventory.set_report("a", ReportFacts(NOW + timedelta(minutes=1), report.warm, report.states))
    assert inventory.change_number(ALL_RIGHTS) == all_before
    warm = ReportFacts(NOW, (version(vault),), ((web.line_key, "waiting", version(web)),))
    inventory.set_report("a", warm)
    inventory.set_image(image("vault", "bank", ready=True))
    inventory.set_deliveries(())
    assert inventory.change_number(BLIND) == before
    assert inventory.change_number(ALL_RIGHTS) > all_before
    inventory.set_desired("a", DesiredFacts())
    assert inventory.change_number(BLIND) > before


def test_a_node_that_falls_silent_is_a_change_of_its_images() -> None:
    inventory, web = Inventory(), image("web")
    add(inventory, "a", {web: "warm"})
    before = inventory.change_number(BLIND)
    inventory.note_time(NOW + timedelta(minutes=11))
    assert inventory.change_number(BLIND) > before
