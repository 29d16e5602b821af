"""`python -m tests.bench`: measure, print a table, write `build/bench.json`."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import uvloop

from tests.bench.accepting import accepting
from tests.bench.admission import admission, feasible
from tests.bench.figures import FIGURES, Figure, Machine, Measured, Row, as_json, judge, table
from tests.bench.fleet import patch_rates, resolve
from tests.bench.image import image_size
from tests.bench.memory import machine_memory_gib
from tests.bench.nodes import node_with_200_lines, push_to_pull
from tests.bench.peers import distribution, early_blobs
from tests.bench.place import PACKAGES, NotMeasured, Place, open_place
from tests.bench.planning import planning
from tests.bench.pulls import pull_overhead
from tests.bench.push import push_requests
from tests.bench.rate import rate
from tests.bench.relay import relay
from tests.bench.requests import requests
from tests.bench.ui import page_in_browser
from tests.bench.ui_data import page_data
from tests.bench.webhooks import cold_start, latency

Measurement = Callable[[Place], Awaitable[Sequence[Measured]]]

MEASUREMENTS: Final[Mapping[Measurement, tuple[str, ...]]] = {
    patch_rates: ("patch-rate-ratio-20", "patch-rate-ratio-200"),
    latency: ("webhook-p99-ratio", "webhook-p50-ms", "web-rss-mib"),
    accepting: ("accepted-at-once", "accepted-p99-ms"),
    push_to_pull: ("push-to-pull-p50-ms", "push-to-pull-p99-ms"),
    pull_overhead: ("pull-overhead",),
    node_with_200_lines: ("agent-idle-rss-mib", "etcd-bytes-per-node-push"),
    cold_start: ("web-cold-start-s",),
    image_size: ("image-mib",),
    push_requests: ("push-reads", "push-writes"),
    requests: ("writes-per-node", "writes-per-node-image", "objects-per-node-image"),
    resolve: ("resolve-5000-s",),
    admission: ("admission-p99-ms",),
    feasible: ("feasible-5000-ms",),
    planning: ("plan-5000-ms",),
    distribution: ("peer-registry-bytes", "peer-transfer-ratio", "peer-warm-ratio"),
    relay: ("peer-stream-ratio", "peer-agent-rss-mib"),
    early_blobs: ("early-blob-ratio",),
    page_in_browser: ("ui-load-s", "ui-browser-mib"),
    page_data: ("ui-cache-mib", "ui-count-ms", "ui-count-by-node-ms"),
    rate: ("webhook-rate-ratio", "web-rss-after-100k-mib"),
}
"""Which figures each measurement gives."""

_MEASUREMENT_SECONDS: Final = 900.0
_EMBEDDED: Final = "On the embedded API server seconds measure that server: figures that depend on it are not judged."


def _arguments() -> argparse.ArgumentParser:
    slugs = [figure.slug for figure in FIGURES]
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--only", action="append", choices=slugs, metavar="FIGURE", help=", ".join(slugs))
    parser.add_argument("--quick", action="store_true", help="fewer runs and smaller fleets; the values mean less")
    parser.add_argument(
        "--kubeconfig",
        default=os.environ.get("WARMHOOK_TEST_KUBECONFIG") or None,
        help="measure on this cluster, which is written to; default WARMHOOK_TEST_KUBECONFIG, else an embedded one",
    )
    parser.add_argument("--output", type=Path, default=PACKAGES / "build" / "bench.json")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """0 where all chosen figures were measured or cannot be here, 1 where a measurement broke."""
    given = _arguments().parse_args(arguments)
    slugs = given.only or [figure.slug for figure in FIGURES]
    machine = Machine(
        len(os.sched_getaffinity(0)), machine_memory_gib(), cluster="real" if given.kubeconfig else "embedded"
    )
    found, broken = uvloop.run(_measure(slugs, given.kubeconfig, given.quick))
    rows = [_row(figure, found, machine) for figure in FIGURES if figure.slug in slugs]
    _print(table(rows))
    if machine.cluster == "embedded":
        _print(_EMBEDDED)
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.write_text(as_json(rows, machine))
    return 1 if broken else 0


def _row(figure: Figure, found: Mapping[str, Measured], machine: Machine) -> Row:
    return judge(figure, found[figure.slug], machine.cluster)


async def _measure(slugs: Sequence[str], kubeconfig: str | None, quick: bool) -> tuple[dict[str, Measured], bool]:
    """What came out by figure, and whether a measurement broke; the others go on."""
    found: dict[str, Measured] = {}
    broken = False
    for measurement, gives in MEASUREMENTS.items():
        if not set(gives) & set(slugs):
            continue
        began = time.monotonic()
        name = measurement.__name__.replace("_", " ")
        _print(f"{name} ...")
        note = ""
        try:
            async with (
                asyncio.timeout(_MEASUREMENT_SECONDS),
                open_place(kubeconfig, os.environ, quick=quick, say=lambda text: _print(f"  {text}")) as place,
            ):
                found |= {measured.slug: measured for measured in await measurement(place)}
        except NotMeasured as error:
            note = str(error)
        except Exception as error:
            broken, note = True, f"{type(error).__name__}: {error}"
        for slug in gives:
            found.setdefault(slug, Measured(slug, None, note=f"not measured: {note}"))
        _print(f"  {note or 'done'} ({time.monotonic() - began:.0f} s)")
    return found, broken


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
