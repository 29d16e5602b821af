"""Readers use the site in a browser: on a wide and a narrow screen, and with its search."""

from __future__ import annotations

import functools
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from tests.docs.test_site import PAGES
from tests.ui.browser import chromium, opened

pytestmark = pytest.mark.browser


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002 - named by the standard library
        """Print nothing."""


@pytest.fixture(scope="module")
def url(site: Path) -> Iterator[str]:
    """Where a file server has the site, below a path."""
    root = site.parents[2]
    handler = functools.partial(_Quiet, directory=str(root))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/{site.relative_to(root)}"
        server.shutdown()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.mark.parametrize("width", [390, 1280])
def test_no_page_is_wider_than_the_screen_or_asks_another_host(browser: Browser, url: str, width: int) -> None:
    for name in PAGES:
        with opened(browser, f"{url}/{name}.html", viewport={"width": width, "height": 900}) as page:
            expect(page.locator("[role=main] h1").first).to_be_visible()
            wide = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
            assert wide <= 0, name


def test_the_search_finds_a_runbook(browser: Browser, url: str) -> None:
    with opened(browser, f"{url}/index.html") as page:
        # What is typed before the index is ready finds nothing.
        with page.expect_console_message(lambda message: "search ready" in message.text):
            page.reload()
        page.get_by_role("link", name="Search").click()
        page.locator("#mkdocs-search-query").press_sequentially("WarmhookNoLeader")
        page.locator("#mkdocs-search-results a", has_text="WarmhookNoLeader").first.click()
        expect(page.get_by_role("heading", name="WarmhookNoLeader")).to_be_visible()
        assert page.url == f"{url}/operations.html#warmhooknoleader"
