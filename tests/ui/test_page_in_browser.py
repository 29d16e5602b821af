"""Operators read the page in a browser: with and without JavaScript, with the keyboard, in light and dark."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Final

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.ui.browser import chromium, opened
from tests.ui.hostile import HostileCluster
from tests.ui.server import PageServer, serving
from tests.ui.synthetic import VIEW, EmptyCluster, SyntheticCluster

pytestmark = pytest.mark.browser

PAGES: Final = (
    "/ui/",
    "/ui/?by=zone",
    "/ui/?by=node",
    "/ui/failing",
    "/ui/deliveries",
    "/ui/images/shop/web-00000000",
    "/ui/nodes/ip-10-0-0-3",
    "/ui/sign-in",
)
FLEET: Final = SyntheticCluster()
SMALL: Final = SyntheticCluster(nodes=60, images=12)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture
def server() -> Iterator[PageServer]:
    """Pages of a small cluster."""
    with serving(PageServer(cluster=SMALL)) as started:
        yield started


@pytest.fixture(scope="module")
def fleet() -> Iterator[PageServer]:
    """Pages of 5,000 nodes and 200 images; tests only read them."""
    with serving(PageServer(cluster=FLEET)) as started:
        yield started


def pixels(page: Page, picture: str) -> int:
    """How many pixels of a picture the browser has decoded."""
    return int(page.locator(picture).first.evaluate("image => image.naturalWidth * image.naturalHeight"))


@pytest.mark.parametrize(("by", "columns"), [("pool", 8), ("zone", 3)])
def test_a_fleet_has_a_row_for_each_image_and_a_column_for_each_group(
    browser: Browser, fleet: PageServer, by: str, columns: int
) -> None:
    with opened(browser, f"{fleet.url}/ui/?by={by}") as page:
        assert page.locator("tbody tr").count() == 200
        assert page.locator("thead th").count() == 2 + columns
        assert page.locator("tbody tr").first.locator("td").count() == 1 + columns


def test_a_fleet_by_node_has_one_pixel_for_each_node_of_each_image(browser: Browser, fleet: PageServer) -> None:
    with opened(browser, f"{fleet.url}/ui/?by=node") as page:
        pictures = page.locator("img.strip")
        assert pictures.count() == 200
        sizes = pictures.evaluate_all("images => images.map((image) => image.naturalWidth * image.naturalHeight)")
        assert all(5000 <= size < 5026 for size in sizes)
        assert "3,431 of 5,000 warm" in (pictures.first.get_attribute("alt") or "")


def test_what_fails_comes_first(browser: Browser, fleet: PageServer) -> None:
    with opened(browser, f"{fleet.url}/ui/") as page:
        first = page.locator("tbody tr").first
        expect(first).to_contain_text("shop/web:v1.0.0")
        expect(first.locator("td .words").first).to_have_text(
            "3,431 of 5,000 warm, 472 pulling, 952 waiting, 85 failed, 60 unreachable"
        )
        expect(page.locator(".reasons li").first).to_contain_text("DiskFull")


def test_pointing_at_a_failed_cell_says_which_node_it_is_and_why(browser: Browser, fleet: PageServer) -> None:
    number = FLEET.cells[0].index(4)
    with opened(browser, f"{fleet.url}/ui/?by=node") as page:
        point_at(page, number, rows=13, cell=2)
        expect(page.locator("#tip")).to_have_text(f"{FLEET.node_names[number][0]}: failed: NotFound")


def test_a_click_on_a_cell_opens_the_page_of_the_node(browser: Browser, fleet: PageServer) -> None:
    number = FLEET.cells[0].index(4)
    with opened(browser, f"{fleet.url}/ui/?by=node") as page:
        x, y = point_at(page, number, rows=13, cell=2)
        expect(page.locator("#tip")).to_be_visible()
        page.mouse.click(x, y)
        page.wait_for_url(f"**/ui/nodes/{FLEET.node_names[number][0]}")
        expect(page.locator("tbody tr").first).to_contain_text("failed")


def point_at(page: Page, number: int, *, rows: int, cell: int) -> tuple[float, float]:
    box = page.locator("img.strip").first.bounding_box()
    assert box is not None
    x, y = box["x"] + (number // rows) * cell + cell / 2, box["y"] + (number % rows) * cell + cell / 2
    page.mouse.move(x, y)
    return x, y


def test_arrow_keys_walk_over_the_nodes_of_a_picture(browser: Browser, server: PageServer) -> None:
    with opened(browser, f"{server.url}/ui/?by=node") as page:
        page.locator("td.pictures a").first.focus()
        tip = page.locator("#tip")
        said = []
        for key, node in (("ArrowRight", 0), ("ArrowRight", 2), ("ArrowDown", 3), ("ArrowLeft", 1)):
            page.keyboard.press(key)
            expect(tip).to_contain_text(f"{SMALL.node_names[node][0]}: ")
            said.append(tip.text_content())
        assert len(set(said)) == 4
        page.keyboard.press("Escape")
        expect(tip).to_be_hidden()
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Enter")
        page.wait_for_url(f"**/ui/nodes/{SMALL.node_names[0][0]}")


@pytest.mark.parametrize("address", PAGES)
def test_each_page_reads_without_javascript(browser: Browser, server: PageServer, address: str) -> None:
    with opened(browser, server.url + address, java_script_enabled=False) as page:
        assert page.locator("h1").count() == 1
        assert page.locator("main").inner_text().count("\n") >= 5
        assert server.requests.count("/ui/changes") == 0


def test_filters_work_without_javascript(browser: Browser, server: PageServer) -> None:
    with opened(browser, f"{server.url}/ui/", java_script_enabled=False) as page:
        page.get_by_label("Nodes by").select_option("zone")
        page.get_by_label("Namespace").select_option("shop")
        page.get_by_label("Text").fill("web")
        page.get_by_role("button", name="Show").click()
        assert page.url.endswith("/ui/?by=zone&state=&namespace=shop&q=web")
        assert page.locator("tbody tr").count() == 1
        assert page.get_by_label("Text").input_value() == "web"
        page.get_by_role("link", name="Show all").click()
        assert page.locator("tbody tr").count() == 12


def test_pictures_without_javascript_lead_to_the_table_of_nodes(browser: Browser, server: PageServer) -> None:
    with opened(browser, f"{server.url}/ui/?by=node", java_script_enabled=False) as page:
        assert pixels(page, "img.strip") == 60
        page.locator("td.pictures a").first.click()
        expect(page.locator("#table tbody tr").first).to_contain_text("failed")


def test_a_change_shows_without_losing_focus_scroll_selection_or_what_is_typed(
    browser: Browser, server: PageServer
) -> None:
    with opened(browser, f"{server.url}/ui/", viewport={"width": 900, "height": 320}) as page:
        expect(page.locator("#live")).to_have_text("live")
        page.get_by_label("Text").fill("half a wo")
        row = page.locator("tbody tr a").nth(6)
        row.scroll_into_view_if_needed()
        row.focus()
        page.evaluate("getSelection().selectAllChildren(document.querySelector('caption'))")
        before = state_of(page)
        server.change(cluster=replace(SMALL, change=9999))
        expect(page.locator("main")).to_have_attribute("data-change", "8")
        expect(page.locator("tbody tr").first.locator(".words").first).not_to_contain_text("pulling")
        assert state_of(page) == before
        assert page.get_by_label("Text").input_value() == "half a wo"


def state_of(page: Page) -> Any:
    script = "[document.activeElement.href, scrollY, String(getSelection()), document.activeElement.isConnected]"
    found = page.evaluate(script)
    assert found[0]
    assert found[1] > 0
    assert found[2]
    return found


def test_a_change_leaves_open_what_is_open(browser: Browser, fleet: PageServer) -> None:
    with serving(PageServer(cluster=FLEET)) as own, opened(browser, f"{own.url}/ui/failing") as page:
        page.locator("summary").first.click()
        page.locator("details[open] tbody a").first.focus()
        own.change()
        expect(page.locator("main")).to_have_attribute("data-change", "8")
        assert page.locator("details[open]").count() == 1
        assert page.evaluate("document.activeElement.closest('details').open")


def test_rows_that_change_places_keep_focus(browser: Browser, server: PageServer) -> None:
    with opened(browser, f"{server.url}/ui/") as page:
        link = page.locator("tbody tr").last.locator("a").first
        href = link.get_attribute("href")
        link.focus()
        server.change(cluster=Reversed(nodes=60, images=12))
        expect(page.locator("main")).to_have_attribute("data-change", "8")
        assert page.locator("tbody tr").first.locator("a").first.get_attribute("href") == href
        assert page.evaluate("document.activeElement.getAttribute('href')") == href


class Reversed(SyntheticCluster):
    """The same images in the other order."""

    def overview(self, dimension: Any) -> Any:
        found = super().overview(dimension)
        return replace(found, rows=found.rows[::-1])


@pytest.mark.parametrize("address", ["/ui/", "/ui/?by=node", "/ui/failing", "/ui/images/shop/web-00000000"])
def test_after_several_changes_a_page_is_as_if_it_were_loaded_anew(
    browser: Browser, server: PageServer, address: str
) -> None:
    clusters = (replace(SMALL, change=8), Reversed(nodes=60, images=12), replace(SMALL, images=9), SMALL)
    with opened(browser, server.url + address) as page, opened(browser, f"{server.url}/ui/deliveries") as other:
        expect(page.locator("#live")).to_have_text("live")
        for cluster in clusters:
            server.change(cluster=cluster)
            expect(page.locator("main")).to_have_attribute("data-change", str(server.view.change))
            other.goto(server.url + address)
            assert page.locator("main").inner_html() == other.locator("main").inner_html()


def test_many_changes_are_fetched_at_most_once_a_second(browser: Browser, server: PageServer) -> None:
    with opened(browser, f"{server.url}/ui/") as page:
        expect(page.locator("#live")).to_have_text("live")
        began = page.evaluate("performance.now()")
        for _ in range(50):
            server.change()
        expect(page.locator("main")).to_have_attribute("data-change", "57")
        seconds = (page.evaluate("performance.now()") - began) / 1000
        assert server.requests.count("/ui/") <= 3 + seconds


def test_a_page_says_that_it_is_not_live_and_then_that_it_is_again(browser: Browser, server: PageServer) -> None:
    # The browser itself writes requests that fail to the console.
    with opened(browser, f"{server.url}/ui/", allowed="503|ERR_") as page:
        page.clock.install()
        page.reload()
        expect(page.locator("#live")).to_have_text("live")
        server.change(problem=503)
        expect(page.locator("#live")).to_have_text("reconnecting")
        page.clock.fast_forward(60_000)
        expect(page.locator("#live")).to_contain_text("stale since ")
        assert page.locator("tbody tr").count() == 12
        server.change(problem=0)
        page.clock.fast_forward(10_000)
        expect(page.locator("#live")).to_have_text("live")
        expect(page.locator("main")).to_have_attribute("data-change", "9")


def test_a_hidden_tab_listens_to_nothing(browser: Browser, server: PageServer) -> None:
    with opened(browser, f"{server.url}/ui/") as page:
        expect(page.locator("#live")).to_have_text("live")
        hide(page, hidden=True)

        def nobody_listens() -> bool:
            # A server notices by its next writes.
            server.change()
            return server.streams == 0

        assert wait_until(page, nobody_listens)
        assert page.locator("main").get_attribute("data-change") == "7"
        hide(page, hidden=False)
        expect(page.locator("main")).to_have_attribute("data-change", str(server.view.change))


def hide(page: Page, *, hidden: bool) -> None:
    page.evaluate(
        """hidden => {
          Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
          document.dispatchEvent(new Event("visibilitychange"));
        }""",
        hidden,
    )


def wait_until(page: Page, holds: Callable[[], bool]) -> bool:
    for _ in range(200):
        if holds():
            return True
        page.wait_for_timeout(25)
    return False


def test_the_keyboard_reaches_everything_in_the_order_of_reading(browser: Browser, server: PageServer) -> None:
    with opened(browser, f"{server.url}/ui/") as page:
        reached = []
        for _ in range(24):
            page.keyboard.press("Tab")
            reached.append(
                page.evaluate("document.activeElement.id || document.activeElement.innerText.split('\\n')[0]")
            )
            assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none", reached[-1]
        assert reached[:5] == ["Skip to the content", "Images", "Failing", "Deliveries", "Sign out"]
        form = reached.index("by")
        assert reached[form : form + 5] == ["by", "state", "namespace", "q", "Show"]
        rows = page.locator("tbody th a").all_inner_texts()
        assert [name for name in reached if name in rows] == rows[: len(set(reached) & set(rows))]
        assert rows[0] in reached


def test_the_first_link_skips_to_the_content(browser: Browser, server: PageServer) -> None:
    with opened(browser, f"{server.url}/ui/") as page:
        page.keyboard.press("Tab")
        expect(page.locator(".skip")).to_be_in_viewport()
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "main"


UNNAMED: Final = """() => [...document.querySelectorAll("a, button, select, input, [role=region], img")]
  .filter((found) =>
  found.checkVisibility() && !(found.innerText?.trim() || found.getAttribute("aria-label") || found.alt
    || found.getAttribute("aria-labelledby") || found.labels?.length || found.querySelector("img")?.alt)
).map((found) => found.outerHTML)"""


@pytest.mark.parametrize("address", PAGES[:-1])
def test_screen_readers_find_landmarks_headings_and_tables(browser: Browser, server: PageServer, address: str) -> None:
    with opened(browser, server.url + address) as page:
        expect(page.locator("#live")).to_have_text("live")
        tree = page.locator("body").aria_snapshot()
        for role in ("banner", 'navigation "Pages"', "main", "heading", "[level=1]", "status"):
            assert role in tree, role
        assert tree.count("[level=1]") == 1
        levels = [int(level) for level in re.findall(r"\[level=(\d)\]", tree)]
        assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
        nameless = page.locator("main table").evaluate_all(
            "tables => tables.filter((table) => !table.querySelector('th[scope=col]')).length"
        )
        assert nameless == 0
        assert page.evaluate(UNNAMED) == []


def test_every_cell_of_a_table_says_its_state_in_words(browser: Browser, server: PageServer) -> None:
    with opened(browser, f"{server.url}/ui/") as page:
        tree = page.locator("table").aria_snapshot()
        assert "warm, " in tree
        assert "failed" in tree
        marks = page.locator("tbody .mark")
        assert marks.count() > 20
        hidden = marks.evaluate_all("marks => marks.every((mark) => mark.closest('[aria-hidden=true]'))")
        assert hidden


CONTRASTS: Final = """() => {
  const parse = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((part) => part / 255)
    .map((part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4)
    .reduce((sum, part, index) => sum + part * [0.2126, 0.7152, 0.0722][index], 0);
  const ground = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = parse(getComputedStyle(at).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const found = {};
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !element.checkVisibility()) continue;
    const svg = element.closest("svg");
    const style = getComputedStyle(element);
    const lights = [light(parse(svg ? style.fill : style.color)), light(ground(svg ? svg.parentElement : element))];
    const contrast = (Math.max(...lights) + 0.05) / (Math.min(...lights) + 0.05);
    if (contrast < 4.5) found[`${element.outerHTML}: ${walker.currentNode.data.trim()}`] = contrast;
  }
  return found;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("address", PAGES)
def test_text_has_the_contrast_of_wcag_aa(browser: Browser, server: PageServer, address: str, scheme: Any) -> None:
    with opened(browser, server.url + address, color_scheme=scheme) as page:
        assert page.evaluate(CONTRASTS) == {}
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (ground == "rgb(255, 255, 255)") == (scheme == "light")


@pytest.mark.parametrize("width", [320, 640])
@pytest.mark.parametrize("address", PAGES)
def test_a_narrow_screen_scrolls_tables_and_not_the_page(
    browser: Browser, server: PageServer, address: str, width: int
) -> None:
    with opened(browser, server.url + address, viewport={"width": width, "height": 600}) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize(
    "address", ["/ui/", "/ui/?by=node", "/ui/failing", "/ui/deliveries", *HostileCluster.addresses]
)
def test_hostile_names_are_only_text(browser: Browser, address: str) -> None:
    with (
        serving(PageServer(cluster=HostileCluster(), view=replace(VIEW, reader=HostileCluster.name))) as server,
        opened(browser, server.url + address, viewport={"width": 1000, "height": 600}) as page,
    ):
        assert page.evaluate("window.broken") is None
        assert page.locator("main script, main iframe, main img:not(.strip), main b > b").count() == 0
        assert page.evaluate("document.documentElement.scrollWidth") <= 1000
        assert "<img src=x" in page.locator("body").inner_text()


def test_an_empty_cluster_says_what_to_do_first(browser: Browser) -> None:
    with serving(PageServer(cluster=EmptyCluster())) as server, opened(browser, f"{server.url}/ui/") as page:
        expect(page.get_by_role("heading", name="No images yet")).to_be_visible()
        expect(page.locator("main")).to_contain_text("kind: WarmPolicy")


def test_a_page_that_is_not_current_says_so_at_the_top(browser: Browser) -> None:
    view = replace(VIEW, stale_seconds=154)
    with serving(PageServer(cluster=SMALL, view=view)) as server, opened(browser, f"{server.url}/ui/") as page:
        expect(page.locator("#stale")).to_contain_text("The API server has not answered for 2 min 34 s")


def test_paper_has_the_tables_and_nothing_to_click(browser: Browser, server: PageServer) -> None:
    with opened(browser, f"{server.url}/ui/failing") as page:
        page.emulate_media(media="print")
        expect(page.locator("header")).to_be_hidden()
        expect(page.locator("table").first).to_be_visible()
        assert page.locator("td code").first.evaluate("code => getComputedStyle(code).whiteSpace") == "normal"
