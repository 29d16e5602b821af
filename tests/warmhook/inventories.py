"""Make inventories for tests: of letters, and of thousands of nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, Final

from warmhook.inventory import DesiredFacts, ImageFacts, Inventory, NodeFacts, ReportFacts
from warmhook.node_report import LineState
from warmhook.timeline import PushTimes
from warmhook.warmimages import ObjectKey

NOW: Final = datetime(2026, 3, 1, 12, tzinfo=UTC)


def image(name: str, namespace: str = "shop", *, pushed_at: datetime | None = None, **fields: Any) -> ImageFacts:
    """A WarmImage."""
    reference, times = f"registry.example.com/{namespace}/{name}:v1", PushTimes(pushed_at=pushed_at)
    return ImageFacts(ObjectKey(namespace, name), reference, times=times, **fields)


def version(facts: ImageFacts) -> str:
    """Of its lines here."""
    return facts.line_key[:8]


def add(
    inventory: Inventory,
    node: str,
    states: Mapping[ImageFacts, LineState],
    *,
    pool: str = "",
    zone: str = "",
    refused: Sequence[ImageFacts] = (),
    silent: bool = False,
) -> None:
    """A node that should hold these images and reports these states of them; images that are new are added."""
    for facts in (*states, *refused):
        inventory.set_image(facts)
    inventory.set_node(NodeFacts(node, pool, zone, NOW - timedelta(days=1)))
    lines = tuple(sorted((facts.line_key, version(facts)) for facts in states))
    inventory.set_desired(node, DesiredFacts(lines, tuple(sorted(facts.line_key for facts in refused))))
    warm = tuple(sorted(version(facts) for facts, state in states.items() if state == "warm"))
    others = sorted((facts.line_key, state, version(facts)) for facts, state in states.items() if state != "warm")
    inventory.set_report(node, ReportFacts(NOW - timedelta(hours=silent), warm, tuple(others)))
    inventory.note_time(NOW)


def large(nodes: int = 5000, images: int = 200, *, alike: bool = True) -> Inventory:
    """Nodes in 20 pools and 3 zones that hold all images; unless they are `alike` no two hold the same ones."""
    rng, inventory = Random(1), Inventory()
    wanted = [image(f"image-{number}", f"team-{number % 10}", pushed_at=NOW) for number in range(images)]
    for facts in wanted:
        inventory.set_image(facts)
    pairs = [inventory.share((facts.line_key, version(facts))) for facts in wanted]
    for number in range(nodes):
        name = f"node-{number:04}"
        inventory.set_node(NodeFacts(name, f"pool-{number % 20}", f"zone-{number % 3}", NOW - timedelta(days=1)))
        held = pairs if alike else rng.sample(pairs, images * 19 // 20)
        warm = [of for _key, of in (held if alike else rng.sample(held, len(held) * 19 // 20))]
        inventory.set_desired(name, DesiredFacts(inventory.share(tuple(sorted(held)))))
        inventory.set_report(name, ReportFacts(NOW, inventory.share(tuple(sorted(warm)))))
    inventory.note_time(NOW)
    return inventory
