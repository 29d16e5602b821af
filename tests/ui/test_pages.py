"""Pages say what is known, to whom it may be said, and what to do next."""

from __future__ import annotations

import functools
import re
from dataclasses import replace
from datetime import timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Final, get_args

import pytest

from handlers.ui.pages import (
    View,
    deliveries_page,
    error_page,
    failing_page,
    failing_reasons,
    image_page,
    node_page,
    overview_page,
    sign_in_page,
)
from tests.ui.hostile import HTML, HostileCluster
from tests.ui.synthetic import NOW, VIEW, EmptyCluster, SyntheticCluster
from warmhook.events import SKIP_REASONS
from warmhook.overview import Dimension, Failing, Moment
from warmhook.pull_failures import FailureReason
from warmhook.reasons import meaning
from warmhook.warmimages import ObjectKey

CLUSTER: Final = SyntheticCluster(nodes=60, images=12)
OPERATIONS: Final = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()


class Reader(HTMLParser):
    """The text of a page with single spaces, and what is open at its end."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in ("meta", "link", "input", "img", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        """An element of SVG, which is closed at once."""

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += f" {data}"


def text_of(html: str) -> str:
    reader = Reader()
    reader.feed(html)
    reader.close()
    assert reader.open == []
    return re.sub(r"\s+([,.:])", r"\1", re.sub(r"\s+", " ", reader.text))


@functools.cache
def hostile_pages() -> dict[str, str]:
    cluster = HostileCluster()
    view = replace(VIEW, reader=HTML, namespaces=(HTML,), query={"q": HTML, "namespace": HTML})
    return {
        "overview": overview_page(cluster.overview("pool"), view),
        "by node": overview_page(cluster.overview("node"), view),
        "image": image_page(cluster.image_page(), replace(view, query={})),
        "node": node_page(cluster.node_page(), replace(view, query={})),
        "deliveries": deliveries_page(cluster.deliveries(), replace(view, query={})),
        "failing": failing_page(cluster.failing(), cluster.overview("zone").checks, view),
        "sign in": sign_in_page(HTML),
        "error": error_page(404, HTML),
    }


@pytest.mark.parametrize("name", hostile_pages())
def test_names_cannot_add_elements_or_turn_the_text(name: str) -> None:
    page = hostile_pages()[name]
    assert "<img src=x" in text_of(page)
    assert "<img src=x" not in page
    assert "<script>" not in page
    assert re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]", page) is None


@pytest.mark.parametrize("name", hostile_pages())
def test_no_page_has_inline_styles_scripts_or_handlers(name: str) -> None:
    tags = re.findall(r"<(?![!/])[^>]*>", hostile_pages()[name])
    assert len(tags) > 10
    assert [tag for tag in tags if re.search(r"\s(style|on\w+)=", re.sub(r'"[^"]*"', '""', tag))] == []
    assert [tag for tag in tags if tag.startswith("<script") and "src=" not in tag] == []


@pytest.mark.parametrize("by", get_args(Dimension))
def test_the_first_page_counts_images_and_nodes(by: Dimension) -> None:
    text = text_of(overview_page(CLUSTER.overview(by), VIEW))
    warm, wanted = (sum(sum(map(test, row)) for row in CLUSTER.cells) for test in ((1).__eq__, bool))
    assert f"12 images on 60 nodes: {100 * warm / wanted:.1f} % warm" in text


def test_the_first_page_has_the_reason_that_most_nodes_have_first_and_silent_agents_last() -> None:
    reasons = [each.reason for each in failing_reasons(CLUSTER.failing())]
    assert reasons[-1] == "NoAgent"
    assert set(reasons) == {"NotFound", "Network", "NoAgent"}


def test_a_reason_counts_images_and_the_most_nodes_and_never_one_node_twice() -> None:
    entries = [Failing(ObjectKey("a", name), "i", "DiskFull", ("n1", "n2"), 2) for name in ("one", "two")]
    text = text_of(failing_page(entries, (), VIEW))
    assert "DiskFull 2 images on up to 2 nodes each" in text


def test_what_fails_has_a_command_to_paste() -> None:
    entry = Failing(ObjectKey("shop", "web"), "registry.example.com/a b:v1", "NotFound", ("n1",), 1)
    assert "warmhook explain 'registry.example.com/a b:v1' n1" in text_of(failing_page([entry], (), VIEW))


def test_what_fails_as_a_whole_has_a_command_without_a_node() -> None:
    entry = Failing(ObjectKey("shop", "web"), "registry.example.com/web:v1", "Invalid", (), 0)
    assert "kubectl describe warmimage -n shop web" in text_of(failing_page([entry], (), VIEW))


def test_a_reader_who_may_not_list_nodes_sees_totals_only() -> None:
    view = replace(VIEW, may_see_nodes=False)
    overview = CLUSTER.overview("node")
    page = overview_page(replace(overview, rows=tuple(replace(row, cells=b"") for row in overview.rows)), view)
    assert "You may not list nodes" in page
    assert CLUSTER.node_names[0][0] not in page.partition("<form class")[2].replace("on ip", "")
    assert "<img" not in page
    assert "Nodes by" not in page


def test_a_reader_without_any_namespace_learns_what_to_ask_for() -> None:
    view = View(reader="bob", sees_all_namespaces=False)
    text = text_of(overview_page(EmptyCluster().overview("pool"), view))
    assert "You may see no WarmImages" in text
    assert "--resource=warmimages.warmhook.dev" in text
    assert "kind: WarmPolicy" not in text


def test_a_cluster_without_images_says_what_to_do_first() -> None:
    text = text_of(overview_page(EmptyCluster().overview("pool"), VIEW))
    assert "No images yet" in text
    assert "kubectl apply" in text
    assert "warmhook doctor" in text


def test_a_page_that_has_seen_nothing_yet_does_not_say_that_there_are_no_images() -> None:
    text = text_of(overview_page(EmptyCluster().overview("pool"), replace(VIEW, stale_seconds=3)))
    assert "Not current." in text
    assert "No images yet" not in text


def test_a_filter_that_takes_nothing_leads_back() -> None:
    text = text_of(overview_page(EmptyCluster().overview("pool"), replace(VIEW, query={"q": "nginx"})))
    assert "No image matches. Show all images" in text


def test_what_is_left_out_is_counted() -> None:
    overview = replace(CLUSTER.overview("pool"), left_out=1, groups_left_out=2)
    text = text_of(overview_page(overview, VIEW))
    assert "1 more image is not shown" in text
    assert "2 more pools are not shown" in text


def test_a_timeline_has_durations_and_says_what_nobody_knows() -> None:
    page = CLUSTER.image_page()
    moments = (Moment("pushed", NOW - timedelta(seconds=90)), Moment("received", None), Moment("last node", NOW))
    text = text_of(image_page(replace(page, timeline=(*moments, Moment("complete", None))), VIEW))
    assert "1 min 30 s between the first and the last moment" in text
    assert "received time unknown" in text
    assert "+1 min 30 s last node" in text
    assert "complete not yet" in text


def test_a_step_before_its_cause_is_named() -> None:
    moments = (Moment("pushed", NOW), Moment("received", NOW - timedelta(seconds=2)))
    text = text_of(image_page(replace(CLUSTER.image_page(), timeline=moments), VIEW))
    assert "the clocks of machines differ" in text
    assert " \N{MINUS SIGN}2.0 s received" in text


def test_an_image_without_a_push_has_no_timeline() -> None:
    assert "No push is known" in text_of(image_page(replace(CLUSTER.image_page(), timeline=()), VIEW))


def test_the_table_of_an_image_has_the_nodes_that_were_asked_for() -> None:
    page = CLUSTER.image_page()
    waiting = [cell.node for cell in page.cells if cell.state == "waiting"]
    assert 0 < len(waiting) < 60
    rows = re.findall(r'<tr id="n-([^"]+)"', image_page(page, replace(VIEW, query={"state": "waiting"})))
    assert rows == waiting


def test_the_table_of_an_image_is_bounded_and_says_so() -> None:
    page = image_page(SyntheticCluster(nodes=700, images=1).image_page(), VIEW)
    assert page.count('<tr id="n-') == 500
    assert "700 nodes; the first 500 are shown" in text_of(page)


def test_a_silent_node_names_the_command_for_its_pod() -> None:
    text = text_of(node_page(CLUSTER.node_page(CLUSTER.silent[0]), VIEW))
    assert "spec.nodeName=" + CLUSTER.node_names[CLUSTER.silent[0]][0] in text
    assert "02:33:12 26 min ago" in text


def test_deliveries_say_what_their_reasons_mean() -> None:
    text = text_of(deliveries_page(CLUSTER.deliveries(), VIEW))
    assert "host-not-allowed The host of the image is not in allowedHosts of the source." in text


def test_deliveries_are_found_by_source_result_reason_or_image() -> None:
    for words, number in (("CI", 14), ("unauthorized", 5), ("no-policy", 5), ("scratch/demo", 5), ("nothing", 0)):
        page = deliveries_page(CLUSTER.deliveries(), replace(VIEW, query={"q": words}))
        assert page.count('<tr id="d-') == number, words


def test_nobody_without_the_right_learns_of_deliveries() -> None:
    view = replace(VIEW, may_see_deliveries=False)
    assert "/ui/deliveries" not in overview_page(CLUSTER.overview("pool"), view)
    assert "Deliveries that named it" not in image_page(CLUSTER.image_page(), view)


def test_a_page_on_loopback_has_nobody_to_sign_out() -> None:
    assert "Sign out" not in overview_page(CLUSTER.overview("pool"), replace(VIEW, reader=""))


REASONS: Final = {
    *get_args(FailureReason),
    *SKIP_REASONS,
    *re.findall(r"`([a-z]+(?:-[a-z]+)+)`", OPERATIONS.partition("| reason of a delivery")[2].partition("\n\n")[0]),
    *re.findall(
        r"`([A-Z]\w+[a-z])`[:;,.]", OPERATIONS.partition("| `Ready` of a WarmImage")[2].partition("WarmPolicy")[0]
    ),
}


@pytest.mark.parametrize("reason", sorted(REASONS - {"api-server-"}))
def test_every_reason_in_the_documentation_has_a_meaning(reason: str) -> None:
    assert meaning(reason).endswith(".")
