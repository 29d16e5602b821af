"""The site is built without a warning, shows what GitHub shows, loads nothing from elsewhere and has no broken link."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urljoin, urlsplit

import pytest
from markdown_it import MarkdownIt

from tests.support.docs import anchors, links

ROOT: Final = Path(__file__).parents[2]
PAGES: Final = {
    "index": ROOT / "README.md",
    "changelog": ROOT / "CHANGELOG.md",
    "contributing": ROOT / "CONTRIBUTING.md",
    "security": ROOT / "SECURITY.md",
    **{path.stem: path for path in sorted((ROOT / "docs").glob("*.md"))},
}
"""The file of each page."""
_LOADED: Final = {"img": "src", "script": "src", "link": "href", "iframe": "src", "source": "src", "video": "src"}
_SHAPES: Final = ("table", "tr", "td", "pre", "ul", "ol", "li", "h1", "h2", "h3", "img", "code", "blockquote")


class Tags(HTMLParser):
    """The tags of a page, with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, {name: value or "" for name, value in attrs}))


def loaded(tags: Tags) -> Iterator[str]:
    """The addresses from which a browser loads something for the page."""
    for tag, attributes in tags.found:
        # The address of the page itself, for search engines.
        if tag in _LOADED and attributes.get("rel") != "canonical":
            yield attributes.get(_LOADED[tag], "")


@pytest.mark.slow
def test_every_file_is_a_page(site: Path) -> None:
    built = {path.stem for path in site.glob("*.html")}
    assert built == PAGES.keys() | {"404"}


@pytest.mark.slow
def test_no_page_loads_anything_from_another_host(site: Path) -> None:
    addresses = {address for path in site.glob("*.html") for address in loaded(Tags(path.read_text()))}
    assert len(addresses) > 5
    assert {address for address in addresses if urlsplit(address).netloc} == set()
    styles = "".join(path.read_text() for path in site.rglob("*.css"))
    fetched = [url.strip("\"'") for url in re.findall(r"url\(([^)]*)\)", styles)]
    assert [url for url in fetched if "//" in url and not url.startswith("data:")] == []
    assert "@import" not in styles


@pytest.mark.slow
def test_every_link_and_everything_that_is_loaded_is_in_the_site_below_any_path(site: Path) -> None:
    pages = {path.name: Tags(path.read_text()) for path in site.glob("*.html") if path.name != "404.html"}
    named = {name: {attributes.get("id", "") for _, attributes in tags.found} for name, tags in pages.items()}
    broken = []
    for name, tags in pages.items():
        targets = [attributes.get("href", "") for tag, attributes in tags.found if tag == "a"]
        for target in [*targets, *loaded(tags)]:
            assert not target.startswith("/"), (name, target)
            whole = urlsplit(urljoin(f"https://host/below/{name}", target))
            if whole.netloc != "host" or not target:
                continue
            path = whole.path.removeprefix("/below/")
            exists = (site / unquote(path)).is_file()
            if not exists or (whole.fragment and unquote(whole.fragment) not in named.get(path, set())):
                broken.append((name, target))
    assert broken == []


@pytest.mark.slow
@pytest.mark.parametrize("name", PAGES)
def test_a_page_has_the_tables_lists_and_code_that_github_shows(site: Path, name: str) -> None:
    html = (site / f"{name}.html").read_text()
    content = html[html.index('role="main"') : html.index("<footer")]
    github = MarkdownIt("commonmark").enable("table").render(PAGES[name].read_text())
    shown, expected = (Counter(tag for tag, _ in Tags(text).found if tag in _SHAPES) for text in (content, github))
    assert shown == expected


@pytest.mark.slow
def test_no_escape_is_shown(site: Path) -> None:
    assert "&gt;=1.2 &lt;3" in (site / "api.html").read_text()


@pytest.mark.slow
def test_the_search_knows_the_runbooks(site: Path) -> None:
    index = (site / "search" / "search_index.json").read_text()
    assert '"operations.html#warmhooknoleader"' in index


def test_every_link_between_files_leads_to_a_heading_or_a_file() -> None:
    broken = []
    for path in PAGES.values():
        for link in links(path.read_text()):
            if urlsplit(link).scheme:
                continue
            target, _, anchor = link.partition("#")
            file = path.parent / target if target else path
            if not file.exists() or (anchor and anchor not in anchors(file.read_text())):
                broken.append((path.name, link))
    assert broken == []
