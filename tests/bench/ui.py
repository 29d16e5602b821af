"""Measure how long a browser takes to show 5,000 nodes by 200 images, and how much memory."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

from tests.bench.figures import Measured
from tests.bench.memory import read_memory
from tests.bench.place import NotMeasured, Place
from tests.ui.browser import chromium
from tests.ui.server import PageServer, serving

_NODES, _IMAGES = 5000, 200
_VIEWS: Final = ("pool", "zone", "node")
_SHOWN: Final = """async () => {
  await Promise.all([...document.images].map((image) => image.decode()));
  await new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve)));
}"""


@dataclass(frozen=True, slots=True)
class _Load:
    """One page in a browser of its own."""

    seconds: float
    """From the address until all pictures are decoded and drawn; the server makes the HTML meanwhile."""
    renderer_mib: float
    """PSS of the process that has the page."""
    all_mib: float
    blank_mib: float
    """PSS of all processes of the browser with the page, and with a blank one."""


async def page_in_browser(place: Place) -> list[Measured]:
    """The worst of the medians by pool, by zone and by node."""
    if shutil.which("chromium") is None:
        raise NotMeasured("no chromium")
    loads = await asyncio.to_thread(_load_all, place.runs(5, 1))
    slowest = max(_VIEWS, key=lambda by: median(load.seconds for load in loads[by]))
    largest = max(_VIEWS, key=lambda by: median(load.renderer_mib for load in loads[by]))
    seconds = [load.seconds for load in loads[slowest]]
    memory = [load.renderer_mib for load in loads[largest]]
    last = loads[largest][-1]
    whole = f"all processes {last.all_mib:.0f} MiB, {last.blank_mib:.0f} with a blank page"
    return [
        Measured("ui-load-s", median(seconds), seconds, f"by {slowest}, the slowest"),
        Measured("ui-browser-mib", median(memory), memory, f"PSS of the page's process by {largest}; {whole}"),
    ]


def _load_all(runs: int) -> dict[str, list[_Load]]:
    with serving(PageServer()) as server:
        assert (server.cluster.nodes, server.cluster.images) == (_NODES, _IMAGES)
        for by in _VIEWS:
            server.page(f"/ui/?by={by}")
        return {by: [_load(f"{server.url}/ui/?by={by}") for _ in range(runs)] for by in _VIEWS}


def _load(url: str) -> _Load:
    before = set(_descendants(os.getpid()))
    with chromium() as browser:
        page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
        page.goto("about:blank")
        blank = sum(_pss(pid) for pid in _chromium(before))
        began = time.perf_counter()
        page.goto(url, wait_until="load")
        page.evaluate(_SHOWN)
        seconds = time.perf_counter() - began
        processes = {pid: _pss(pid) for pid in _chromium(before)}
        return _Load(seconds, processes[_renderer(processes)], sum(processes.values()), blank)


def _renderer(processes: dict[int, float]) -> int:
    """The process of the page: the largest of its kind, as the others have nothing to show."""
    renderers = [pid for pid in processes if b"--type=renderer" in _command(pid)]
    return max(renderers, key=lambda pid: processes[pid])


def _chromium(before: set[int]) -> list[int]:
    return [pid for pid in _descendants(os.getpid()) if pid not in before and b"chromium" in _command(pid)]


def _descendants(root: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(status.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        children.setdefault(parent, []).append(int(status.parent.name))
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return found


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _pss(pid: int) -> float:
    try:
        return read_memory(pid).pss
    except OSError:
        return 0.0
