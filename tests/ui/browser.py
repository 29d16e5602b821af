"""Open pages in Chromium that must not complain, break the CSP or ask other hosts."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any, Final

from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.real.programs import need

# A machine may do other things meanwhile.
expect.set_options(timeout=30_000)

# Without what asks other hosts, and as root in a container.
ARGUMENTS: Final = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@contextlib.contextmanager
def chromium(**options: Any) -> Iterator[Browser]:
    """A browser of the system; playwright must not bring one."""
    need("chromium", "chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=ARGUMENTS, **options)
        try:
            yield browser
        finally:
            browser.close()


@contextlib.contextmanager
def opened(browser: Browser, url: str, *, allowed: str = "", **options: Any) -> Iterator[Page]:
    """A page that must not complain, or ask another host; `options` are those of a browser context.

    `allowed`: a pattern of complaints that the test itself provokes.
    """
    complaints: list[str] = []
    context = browser.new_context(**options)
    page = context.new_page()
    page.set_default_timeout(10_000)
    page.on(
        "console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None
    )
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: complaints.append(request.url) if _is_foreign(request.url, url) else None)
    try:
        page.goto(url)
        yield page
        assert [each for each in complaints if not (allowed and re.search(allowed, each))] == []
    finally:
        context.close()


def _is_foreign(asked: str, url: str) -> bool:
    host = "/".join(url.split("/")[:3])
    return not asked.startswith((f"{host}/", "data:", "about:"))
