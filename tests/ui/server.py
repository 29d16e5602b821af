"""Serve the pages of a synthetic cluster on loopback, with the headers that `web` sends, and push changes."""

from __future__ import annotations

import contextlib
import functools
import mimetypes
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

from handlers.ui import pages
from tests.ui.synthetic import VIEW, SyntheticCluster

CSP: Final = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)


@dataclass
class PageServer:
    """What the pages show, and what browsers asked for."""

    cluster: Any = field(default_factory=SyntheticCluster)
    view: pages.View = VIEW
    problem: int = 0
    """A status that every page answers with; 0: none."""
    url: str = ""
    requests: list[str] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)
    streams: int = 0

    def change(self, **values: Any) -> None:
        """Show other values, and tell browsers."""
        with self.changed:
            for name, value in values.items():
                setattr(self, name, value)
            self.view = replace(self.view, change=self.view.change + 1)
            self.changed.notify_all()

    def page(self, target: str) -> str:
        """The HTML of an address."""
        address = urlsplit(target)
        query = dict(parse_qsl(address.query))
        view, cluster = replace(self.view, query=query), self.cluster
        parts = [unquote(part) for part in address.path.split("/")]
        make: Mapping[str, Callable[[], str]] = {
            "": lambda: pages.overview_page(_filtered(_overview(cluster, query.get("by", "pool")), query), view),
            "failing": lambda: pages.failing_page(cluster.failing(), _overview(cluster, "zone").checks, view),
            "deliveries": lambda: pages.deliveries_page(cluster.deliveries(), view),
            "sign-in": lambda: pages.sign_in_page("This token is not valid, or no longer."),
            "images": lambda: pages.image_page(cluster.image_page(int(parts[-1].rpartition("-")[2], 16)), view),
            "nodes": lambda: pages.node_page(
                cluster.node_page([name for name, *_ in cluster.node_names].index(parts[-1])), view
            ),
        }
        return make[parts[2]]()


@functools.lru_cache(maxsize=8)
def _overview(cluster: Any, by: Any) -> Any:
    """Made once, as handlers make it: in a browser only pages are measured."""
    return cluster.overview(by)


def _filtered(overview: Any, query: Mapping[str, str]) -> Any:
    state, space, text = query.get("state"), query.get("namespace"), query.get("q", "")
    rows = [
        row
        for row in overview.rows
        if (not state or getattr(row.total, state))
        and (not space or row.warmimage.namespace == space)
        and text in row.image
    ]
    return replace(overview, rows=tuple(rows))


@contextlib.contextmanager
def serving(server: PageServer) -> Iterator[PageServer]:
    """Serve at `server.url` until the end of the block."""
    listener = ThreadingHTTPServer(("127.0.0.1", 0), _handler(server))
    listener.daemon_threads = True
    server.url = f"http://127.0.0.1:{listener.server_port}"
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.02}, name="pages")
    thread.start()
    try:
        yield server
    finally:
        server.change()
        listener.shutdown()
        listener.server_close()
        thread.join()


def _handler(server: PageServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            server.requests.append(self.path)
            if self.path == "/ui/changes":
                self._changes()
            elif self.path.startswith("/ui/static/"):
                name = self.path.rpartition("/")[2]
                content = (resources.files("handlers.ui") / "static" / name).read_bytes()
                self._answer(200, mimetypes.guess_type(name)[0] or "", content)
            elif server.problem:
                self._answer(server.problem, "text/html", pages.error_page(server.problem, "Later.").encode())
            else:
                self._answer(200, "text/html; charset=utf-8", server.page(self.path).encode())

        def _answer(self, status: int, kind: str, content: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Content-Security-Policy", CSP)
            self.send_header("X-Content-Type-Options", "nosniff")
            self.send_header("Cross-Origin-Opener-Policy", "same-origin")
            self.send_header("Cross-Origin-Resource-Policy", "same-origin")
            self.send_header("Referrer-Policy", "no-referrer")
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            with contextlib.suppress(ConnectionError):
                self.wfile.write(content)

        def _changes(self) -> None:
            self.close_connection = True
            self.send_response(503 if server.problem else 200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            server.streams += 1
            with contextlib.suppress(ConnectionError):
                while not server.problem:
                    change = server.view.change
                    self.wfile.write(f"event: changed\ndata: {change}\n\n".encode())
                    self.wfile.flush()
                    with server.changed:
                        while server.view.change == change and not server.problem:
                            server.changed.wait()
            server.streams -= 1

        def log_message(self, *args: Any) -> None:
            """Print nothing."""

    return Handler
