"""Count the states of all images in each group of nodes.

The counts are those of `warmhook.status.count`, of thousands of nodes and hundreds of images at once: nodes that should
hold the same, report the same and are in one group are counted together.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from warmhook.inventory import DesiredFacts, Inventory, ReportFacts
from warmhook.node_report import line_state
from warmhook.overview import STATES, CellState, NodeGroup, Tally

NO_TALLY: Final = Tally()


@dataclass(frozen=True, slots=True)
class Tallies:
    """The counts of one inventory."""

    groups: tuple[NodeGroup, ...]
    cells: Mapping[str, Mapping[str, Tally]]
    """By the name of a group and the key of a line; a line that no node of the group should hold is absent."""

    def total(self, key: str) -> Tally:
        """Of a line on all nodes of these groups."""
        return _sum([cells[key] for cells in self.cells.values() if key in cells])


def tally(inventory: Inventory, group_of: Mapping[str, str]) -> Tallies:
    """Count the nodes that `group_of` names, by node, in their groups; groups are sorted by name, the empty one last.

    Nodes that do not exist are ignored.
    """
    # Of equal tuples most are the same object. All of them live as long as the inventory, which does not change here.
    alike: Counter[tuple[str, bool, int, int, int, int]] = Counter()
    examples: dict[tuple[int, ...], tuple[DesiredFacts, ReportFacts]] = {}
    sizes: Counter[str] = Counter()
    silent: Counter[str] = Counter()
    for name, group in group_of.items():
        if name not in inventory.nodes:
            continue
        desired, report = inventory.desired_of(name), inventory.report_of(name)
        is_silent = name in inventory.silent
        same = (id(desired.lines), id(desired.refused), id(report.warm), id(report.states))
        examples[same] = (desired, report)
        alike[group, is_silent, *same] += 1
        sizes[group] += 1
        silent[group] += is_silent
    counted: defaultdict[str, defaultdict[CellState, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    for (group, is_silent, *same_ids), nodes in alike.items():
        desired, report = examples[tuple(same_ids)]
        for state, keys in keys_by_state(desired, report, is_silent=is_silent).items():
            # Most keys by far are counted here, so the loop over them is that of the interpreter.
            counted[group][state].update(keys if nodes == 1 else dict.fromkeys(keys, nodes))
    return Tallies(
        groups=_in_order(NodeGroup(name, sizes[name], silent[name]) for name in sizes),
        cells={group: _tallies(by_state) for group, by_state in counted.items()},
    )


def merge(tallies: Tallies, group_of: Callable[[str], str]) -> Tallies:
    """The counts of larger groups, by the names of the smaller ones that they are made of."""
    groups: dict[str, NodeGroup] = {}
    parts: defaultdict[str, defaultdict[str, list[Tally]]] = defaultdict(lambda: defaultdict(list))
    for group in tallies.groups:
        name = group_of(group.name)
        before = groups.get(name, NodeGroup(name, 0))
        groups[name] = NodeGroup(name, before.nodes + group.nodes, before.silent + group.silent)
        for key, counted in tallies.cells.get(group.name, {}).items():
            parts[name][key].append(counted)
    cells = {name: {key: _sum(found) for key, found in by_key.items()} for name, by_key in parts.items()}
    return Tallies(_in_order(groups.values()), cells)


def _in_order(groups: Iterable[NodeGroup]) -> tuple[NodeGroup, ...]:
    return tuple(sorted(groups, key=lambda group: (not group.name, group.name)))


def _sum(tallies: Sequence[Tally]) -> Tally:
    if len(tallies) == 1:
        return tallies[0]
    return Tally(*map(sum, zip(*map(_numbers, tallies), strict=True))) if tallies else NO_TALLY


def _tallies(by_state: Mapping[CellState, Mapping[str, int]]) -> dict[str, Tally]:
    keys = frozenset[str]().union(*by_state.values())
    columns = [by_state.get(state, {}) for state in STATES]
    return {key: Tally(*(column.get(key, 0) for column in columns)) for key in keys}


def keys_by_state(
    desired: DesiredFacts, report: ReportFacts, *, is_silent: bool
) -> Mapping[CellState, Collection[str]]:
    """The keys of all lines that one node should hold."""
    lines, refused = desired.lines, desired.refused
    if refused:
        without = frozenset(refused)
        lines = tuple(line for line in lines if line[0] not in without)
    if is_silent:
        return {"unreachable": [*(key for key, _version in lines), *refused]}
    warm = frozenset(report.warm)
    found: defaultdict[CellState, list[str]] = defaultdict(list)
    found["warm"] = [key for key, version in lines if version in warm]
    found["failed"] = list(refused)
    if len(found["warm"]) < len(lines):
        states = {key: (state, version) for key, state, version in report.states}
        for key, version in lines:
            if version not in warm:
                found[line_state(states.get(key), version)].append(key)
    return found


def state_on(inventory: Inventory, node: str, key: str) -> CellState | None:
    """The state of one line on one node; `None` if the node should not hold it."""
    desired, report = inventory.desired_of(node), inventory.report_of(node)
    if key in desired.refused:
        return "unreachable" if node in inventory.silent else "failed"
    version = next((version for known, version in desired.lines if known == key), None)
    if version is None:
        return None
    if node in inventory.silent:
        return "unreachable"
    if version in report.warm:
        return "warm"
    reported = next(((state, of_version) for known, state, of_version in report.states if known == key), None)
    return line_state(reported, version)


def _numbers(found: Tally) -> tuple[int, int, int, int, int]:
    return found.warm, found.pulling, found.waiting, found.failed, found.unreachable
