"""Take the screenshots of the documentation, from a cluster that is the same each time.

WARMHOOK_TEST_SCREENSHOTS=docs/ui .venv/bin/python -m pytest -n 0 -m browser tests/ui/test_screenshots.py
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from playwright.sync_api import Browser, expect

from tests.ui.browser import chromium, opened
from tests.ui.server import PageServer, serving
from tests.ui.synthetic import SyntheticCluster

pytestmark = pytest.mark.browser

DOCS: Final = Path(__file__).parents[2] / "docs"
SHOTS: Final = {
    "pools": "/ui/",
    "nodes": "/ui/?by=node",
    "image": "/ui/images/shop/web-00000000",
    "deliveries": "/ui/deliveries",
}
BYTES_MAX: Final = 300_000
CLUSTER: Final = SyntheticCluster()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", SHOTS)
def test_the_page_looks_as_in_the_documentation(browser: Browser, name: str, scheme: Any) -> None:
    look: dict[str, Any] = {"viewport": {"width": 1280, "height": 860}, "color_scheme": scheme}
    with serving(PageServer(cluster=CLUSTER)) as server, opened(browser, server.url + SHOTS[name], **look) as page:
        expect(page.locator("#live")).to_have_text("live")
        if name == "nodes":
            box = page.locator("img.strip").nth(2).bounding_box()
            assert box is not None
            key = CLUSTER.overview("node").rows[2].warmimage
            cells = next(cells for number, cells in enumerate(CLUSTER.cells) if CLUSTER.image(number)[0] == key)
            number = cells.index(5, 800)
            page.mouse.move(box["x"] + number // 13 * 2 + 1, box["y"] + number % 13 * 2 + 1)
            expect(page.locator("#tip")).to_contain_text("failed: DiskFull")
        taken = page.screenshot()
    assert len(taken) < BYTES_MAX
    if folder := os.environ.get("WARMHOOK_TEST_SCREENSHOTS"):
        Path(folder, f"{name}-{scheme}.png").write_bytes(taken)


def test_the_documentation_shows_every_screenshot() -> None:
    shown = set(re.findall(r"\(ui/([\w-]+\.png)\)", (DOCS / "ui.md").read_text()))
    assert shown == {f"{name}-{scheme}.png" for name in SHOTS for scheme in ("light", "dark")}
    assert {path.name for path in (DOCS / "ui").glob("*.png")} == shown
    assert all(path.stat().st_size < BYTES_MAX for path in (DOCS / "ui").glob("*.png"))
