"""Show how Warmhook reads one delivery: `warmhook parse KIND [FILE]`.

Needs no configuration: nothing is authenticated, no host is refused, nothing is sent anywhere.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final, TypeAlias

import click

from adapters.registries import Adapter, Delivery, Reply, Source, find_adapters
from adapters.registries.common.bodies import read_json
from adapters.registries.common.delivery import Unreadable
from cli.errors import Unusable
from warmhook.admission_review import Admitted, read_review
from warmhook.events import Pushed, Skip
from warmhook.images import NotAReference, canonical_host

# When nothing is emitted, the one reason that is printed: that of the part which came closest to being an image. First
# what its operator can mend, then what was an image of no use, then other packages, then events that are no pushes.
_TELLING: Final = (
    *("no-registry-host", "malformed", "no-tag-no-digest"),
    *("proxy-cache", "pull-through-cache", "remote-cache", "replication-echo"),
    *("daemonset-pod", "mirror-pod", "own-pod", "dry-run", "not-create", "not-a-pod"),
    *("not-runnable", "not-a-container", "unknown-event", "not-a-push", "ping", "handshake"),
)

# The default namespace of Warmhook's own Pods.
_OWN_NAMESPACE: Final = "warmhook-system"


@dataclass(frozen=True, slots=True)
class Body:
    """The arguments of the command."""

    content: bytes
    headers: Mapping[str, str]
    registry_host: str
    received: datetime


Reader: TypeAlias = Callable[[Body], tuple[list[str], list[str]]]
"""Returns references and the reasons of skips, in the order of the events."""


def readers() -> dict[str, Reader]:
    """Everything that can be read, by its kind."""
    deliveries: dict[str, Reader] = {
        kind: partial(_read_deliveries, adapter) for kind, adapter in find_adapters().items()
    }
    return deliveries | {"admission": _read_reviews}


def report(references: list[str], skips: list[str]) -> list[str]:
    """The lines to print: each reference, or one skip reason where there is none."""
    return references or [f"skip: {min(skips, key=_rank)}"]


@click.command()
@click.argument("kind")
@click.argument("file", default="-")
@click.option("--header", "headers", multiple=True, metavar="'NAME: VALUE'", help="A header of the delivery.")
@click.option("--registry-host", default="", metavar="HOST", help="Replaces the registry host of the payload.")
def parse(kind: str, file: str, headers: tuple[str, ...], registry_host: str) -> None:
    """Print the images that a delivery of KIND announces.

    FILE holds the body (standard input by default); a JSON list is several deliveries. Prints one reference per line,
    or `skip: REASON`.
    """
    known = readers()
    if kind not in known:
        raise Unusable(f"{kind!r} is no kind of sender; known are {', '.join(sorted(known))}")
    if registry_host:
        try:
            registry_host = canonical_host(registry_host)
        except NotAReference as error:
            raise Unusable(f"--registry-host: {error}") from None
    body = Body(_content(file), dict(map(_header, headers)), registry_host, datetime.now(UTC))
    for line in report(*known[kind](body)):
        print(line)


def _rank(reason: str) -> int:
    return _TELLING.index(reason) if reason in _TELLING else len(_TELLING)


def _content(file: str) -> bytes:
    if file == "-":
        return sys.stdin.buffer.read()
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise Unusable(f"{file}: {error.strerror}") from None


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise Unusable(f"--header {text!r}: expected 'Name: value'")
    return name.strip().lower(), value.strip()


def _read_deliveries(adapter: Adapter, body: Body) -> tuple[list[str], list[str]]:
    source = Source("parse", registry_host=body.registry_host)
    outcomes = [
        outcome
        for content in _deliveries(adapter, body.content)
        for outcome in adapter.parse(Delivery(content, body.received, body.headers), source)
    ]
    references = [str(outcome.image) for outcome in outcomes if isinstance(outcome, Pushed)]
    skips: list[str] = [
        "handshake" if isinstance(one, Reply) else one.reason for one in outcomes if isinstance(one, Reply | Skip)
    ]
    return references, skips


def _read_reviews(body: Body) -> tuple[list[str], list[str]]:
    try:
        read = read_json(body.content)
    except Unreadable:
        read = None
    outcomes = [
        read_review(one, _OWN_NAMESPACE).outcome for one in (read if isinstance(read, list) and read else [read])
    ]
    references = [str(image) for outcome in outcomes if isinstance(outcome, Admitted) for image in outcome.images]
    return references, [outcome for outcome in outcomes if not isinstance(outcome, Admitted)]


def _deliveries(adapter: Adapter, content: bytes) -> list[bytes]:
    """The bodies in `content`; what is no JSON is left to the adapter, which says so."""
    if adapter.batched:
        return [content]
    try:
        several = read_json(content)
    except Unreadable:
        return [content]
    return [json.dumps(one).encode() for one in several] if isinstance(several, list) and several else [content]
