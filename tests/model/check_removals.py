"""Compare what agents removed, and left, with the rules of `onRemoval: Delete`, and describe all differences."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from datetime import timedelta

from adapters.kubernetes import paths
from tests.model.history import EPOCH, Image, Spec
from tests.model.model import image_name
from tests.model.wanted import Wanted, limits_of
from tests.model.world import NAMESPACE, World

__all__ = ["removal_differences"]

# A pull is on record so many seconds after its end.
_RECORDED_SECONDS = 10.0


def removal_differences(world: World, node: str, lines: Mapping[str, Wanted]) -> Iterator[str]:
    """`lines` are those of the node: an image must go in the end if nobody wants it and the agent may remove it."""
    runtime = world.runtimes[node]
    yield from (f"{node}: {problem}" for problem in runtime.wrong)
    for seconds, gone in runtime.removed:
        asked = any(_asks(spec) for _, spec in _naming(world, gone, before=seconds))
        if not asked and not _others_ask(world, gone):
            yield f"{node}: {sorted(gone)} was removed, and nobody ever asked for that"
    if not world.ask("GET", paths.configmaps(NAMESPACE, f"warmhook-desired-{node}")):
        return  # without it everything stays
    wanted = [line for line in lines.values() if not line.purged or line.suspended]
    references = {str(line.fact[0]) for line in wanted}
    digests = {line.fact[1] for line in wanted if line.fact[1]}
    for image_id in sorted(set(runtime.listed.values())):
        names = {name for name, each in runtime.listed.items() if each == image_id}
        if names & references or {name.rpartition("@")[2] for name in names} & digests:
            continue
        if _may_go(world, node, image_id, names, lines.values()):
            yield f"{node}: {sorted(names)} is still there, and nobody wants it"


def _may_go(world: World, node: str, image_id: str, names: AbstractSet[str], lines: Iterable[Wanted]) -> bool:
    """Whether the agent may remove the image for sure."""
    runtime = world.runtimes[node]
    if image_id in runtime.foreign or image_id in runtime.used or not names.isdisjoint(runtime.named_since):
        return False
    pulls, deaths = runtime.brought[image_id], world.deaths.get(f"agent-{node}", [])
    if any(began <= died <= ended + _RECORDED_SECONDS for began, ended in pulls for died in deaths):
        return False  # the record of the pull may be lost
    given_up = [line for line in lines if line.purged and not line.suspended and str(line.fact[0]) in names]
    naming = [
        (policy, spec)
        for policy, spec in _naming(world, names)
        if not any(line.key == f"{_namespace(policy)}/{image_name(policy, line.fact[0])}" for line in given_up)
    ]
    all_delete = all(it.on_removal == "Delete" and "Delete" in limits_of(_namespace(by)).allow for by, it in naming)
    return bool(pulls) and bool(naming or given_up) and all_delete and not _others(world, names)


def _namespace(policy: str) -> str:
    return policy.partition("/")[0]


def _naming(world: World, names: AbstractSet[str], before: float = float("inf")) -> list[tuple[str, Spec]]:
    """Every policy, as it was at some time, that may have wanted an image under one of these names."""
    history, repositories = world.history, _repositories(names)
    end = EPOCH + timedelta(seconds=min(before, 1e9))
    images = [Image(name.partition("@")[0], name.partition("@")[2]) for name in names if "@" in name]
    images += [push.image for push in history.pushes if push.image.repository in repositories]
    images += [image for image in world.images if image.repository in repositories]
    return [
        (policy, spec)
        for policy, versions in history.policies.items()
        for since, spec in versions
        if spec is not None and since <= end and any(spec.wants(image) or spec.spares(image) for image in images)
    ]


def _asks(spec: Spec) -> bool:
    return spec.on_removal == "Delete" or spec.purge


def _others(world: World, names: AbstractSet[str]) -> bool:
    return not _repositories(names).isdisjoint(world.history.others)


def _others_ask(world: World, names: AbstractSet[str]) -> bool:
    return any(world.history.others.get(repository) == "Delete" for repository in _repositories(names))


def _repositories(names: AbstractSet[str]) -> set[str]:
    return {name.partition("@")[0] if "@" in name else name.rpartition(":")[0] for name in names}
