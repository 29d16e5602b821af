"""Draw into docs/distribution.svg how long a transfer takes, by formulas and by the real planner in a simulation.

`python -m tests.bench.curves` writes the file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from tests.bench.streaming import Load, simulate
from tests.support.fleet import candidate, forest, node_names
from warmhook.distribution import Rates, plan
from warmhook.distribution_tree import FAN_OUT
from warmhook.warmimages import Source

FILE: Final = Path(__file__).parents[2] / "docs" / "distribution.svg"

_SIZE: Final = 1_000_000_000
_CHUNK: Final = 4_000_000
_HOP_SECONDS: Final = 0.5
_ZONES: Final = 3
_COUNTS: Final = (100, 200, 500, 1000, 2000, 5000)
_PANELS: Final = (
    ("Registry 10 Gbit/s, nodes 250 MB/s", Rates(1250e6, 250e6)),
    ("Registry and nodes 1 Gbit/s", Rates(125e6, 125e6)),
)
# Of the drawing, in pixels.
_WIDTH, _HEIGHT, _LEFT, _TOP, _GAP, _BOTTOM = 340, 300, 64, 44, 70, 150
_COLUMNS: Final = 3
_SECONDS: Final = (1.0, 50_000.0)

_Curve: TypeAlias = Callable[[int, Rates], float]


def direct(nodes: int, rates: Rates) -> float:
    """Every node pulls from the registry."""
    return max(nodes * _SIZE / rates.registry, _SIZE / rates.node)


def one_seed(nodes: int, rates: Rates) -> float:
    """One node pulls, and then gives the image to one after another (forklift)."""
    return _SIZE / min(rates.registry, rates.node) + (nodes - 1) * _SIZE / rates.node


def two_phases(nodes: int, rates: Rates) -> float:
    """A tenth of the nodes pull, and then each gives the image to nine others."""
    seeds = -(-nodes // 10)
    return max(seeds * _SIZE / rates.registry, _SIZE / rates.node) + -(-(nodes - seeds) // seeds) * _SIZE / rates.node


def doubling(nodes: int, rates: Rates) -> float:
    """In each wave each node that has the image gives it to one that has not."""
    seeds = min(nodes, max(1, round(rates.registry / rates.node / math.log(2))))
    waves = math.ceil(math.log2(nodes / seeds))
    return max(seeds * _SIZE / rates.registry, _SIZE / rates.node) + waves * _SIZE / rates.node


def bound(nodes: int, rates: Rates) -> float:
    """What no way of sharing can beat (Kumar and Ross, Peer-Assisted File Distribution, 2006)."""
    together = nodes * _SIZE / (rates.registry + nodes * rates.node)
    return max(_SIZE / rates.registry, _SIZE / rates.node, together)


def trees(nodes: int, rates: Rates) -> float:
    """Chunks stream over binary trees below a seed in each zone, or below more seeds."""
    seeds = max(_ZONES, round(rates.registry / rates.node / math.log(2)))
    each_hop = _HOP_SECONDS + FAN_OUT * _CHUNK / rates.node
    return _SIZE / min(rates.registry / seeds, rates.node / FAN_OUT) + math.log2(nodes / seeds + 1) * each_hop


def simulated(nodes: int, rates: Rates) -> float:
    """The plan of the planner for nodes in three zones, simulated."""
    wanted = [candidate(name, zone=f"z{number % _ZONES}") for number, name in enumerate(node_names(nodes))]
    parents = forest(plan("registry.example.com/shop/web", wanted, _SIZE, rates, Source()), wanted).parents
    return simulate(parents, Load(rates, _SIZE, _CHUNK, hop_seconds=_HOP_SECONDS)).seconds


@dataclass(frozen=True, slots=True)
class _Line:
    label: str
    colour: str
    curve: _Curve
    dots: bool = False
    """Simulated: only at these points."""


_LINES: Final = (
    _Line("one seed, one node after another", "#8c564b", one_seed),
    _Line("direct pulls", "#d62728", direct),
    _Line("two phases, 10 % seeds", "#ff7f0e", two_phases),
    _Line("doubling waves", "#9467bd", doubling),
    _Line("lower bound", "#7f7f7f", bound),
    _Line("streaming trees", "#17becf", trees),
    _Line("Warmhook: its plan, simulated", "#1f77b4", simulated, dots=True),
)


def draw() -> str:
    """The whole file."""
    width = _LEFT + len(_PANELS) * (_WIDTH + _GAP) - _GAP + 20
    height = _TOP + _HEIGHT + _BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">',
        '<g font-family="DejaVu Sans, Helvetica, Arial, sans-serif" font-size="12">',
        "<title>Seconds until the last node has an image of 1 GB, by number of nodes</title>",
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
    ]
    for number, (title, rates) in enumerate(_PANELS):
        left = _LEFT + number * (_WIDTH + _GAP)
        parts += [f'<g transform="translate({left},{_TOP})">', *_axes(title), *_curves(rates), "</g>"]
    return "\n".join([*parts, *_legend(_TOP + _HEIGHT + 62), "</g>", "</svg>", ""])


def _axes(title: str) -> Iterator[str]:
    yield f'<text x="{_WIDTH / 2:.0f}" y="-16" text-anchor="middle" font-weight="bold">{title}</text>'
    yield f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="none" stroke="#444444"/>'
    for count in _COUNTS:
        x = _x(count)
        yield f'<line x1="{x}" x2="{x}" y1="0" y2="{_HEIGHT}" stroke="#e5e5e5"/>'
        yield f'<text x="{x}" y="{_HEIGHT + 18}" text-anchor="middle">{count:,}</text>'
    for exponent in range(5):
        y = _y(10.0**exponent)
        yield f'<line x1="0" x2="{_WIDTH}" y1="{y}" y2="{y}" stroke="#e5e5e5"/>'
        yield f'<text x="-8" y="{y}" dy="4" text-anchor="end">{10**exponent:,} s</text>'
    yield f'<text x="{_WIDTH / 2:.0f}" y="{_HEIGHT + 38}" text-anchor="middle">nodes that want 1 GB</text>'


def _curves(rates: Rates) -> Iterator[str]:
    for line in _LINES:
        counts: Iterable[int] = _COUNTS if line.dots else [round(100 * 50 ** (step / 60)) for step in range(61)]
        points = [(_x(count), _y(line.curve(count, rates))) for count in counts]
        if line.dots:
            yield from (f'<circle cx="{x}" cy="{y}" r="4" fill="{line.colour}"/>' for x, y in points)
        else:
            joined = " ".join(f"{x},{y}" for x, y in points)
            yield f'<polyline points="{joined}" fill="none" stroke="{line.colour}" stroke-width="2"/>'


def _legend(top: int) -> Iterator[str]:
    for number, line in enumerate(_LINES):
        x, y = _LEFT + number % _COLUMNS * 250, top + number // _COLUMNS * 24
        if line.dots:
            yield f'<circle cx="{x + 12}" cy="{y}" r="4" fill="{line.colour}"/>'
        else:
            yield f'<line x1="{x}" x2="{x + 24}" y1="{y}" y2="{y}" stroke="{line.colour}" stroke-width="2"/>'
        yield f'<text x="{x + 32}" y="{y}" dy="4">{line.label}</text>'


def _x(count: int) -> float:
    return round(_scaled(count, _COUNTS) * _WIDTH, 1)


def _y(seconds: float) -> float:
    return round((1 - _scaled(seconds, _SECONDS)) * _HEIGHT, 1)


def _scaled(value: float, limits: Sequence[float]) -> float:
    """0 to 1 on a logarithmic scale."""
    return math.log(value / limits[0]) / math.log(limits[-1] / limits[0])


if __name__ == "__main__":
    FILE.write_text(draw())
