"""What can happen to the system: one class for each thing, and sequences of them, drawn by chance."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from random import Random
from typing import Any, Final, Protocol

from adapters.kubernetes import paths
from tests.model.history import HOST, Image, Rule, Spec, Where
from tests.model.senders import SOURCES
from tests.model.world import NAMESPACE, RIVAL, UNREADABLE, World
from tests.support.runtime import digest_of
from warmhook.api import API_VERSION
from warmhook.ports import Object
from warmhook.warmimages import ObjectKey

__all__ = ["IMAGES", "NODES", "Step", "sequence"]

_LINUX: Final = {"kubernetes.io/os": "linux"}
NODES: Final[Mapping[str, Mapping[str, str]]] = {
    "node-1": _LINUX | {"pool": "web"},
    "node-2": _LINUX | {"pool": "db"},
    "node-3": _LINUX | {"pool": "web"},
    "node-4": {"kubernetes.io/os": "windows", "pool": "web"},
}
_LABELS: Final = (*NODES.values(), _LINUX | {"type": "virtual-kubelet"})
_REPOSITORIES: Final = (f"{HOST}/shop/app", f"{HOST}/shop/side_car", f"{HOST}/base/os")
_TAGS: Final = ("v1.0.0", "v1.2.0", "v2.0.0-debug", "latest")
_UNTAGGED: Final = tuple(digest_of(f"child {number}") for number in range(2))
IMAGES: Final = tuple(Image(repository, tag) for repository in _REPOSITORIES for tag in _TAGS)
"""What the registry has from the start."""
_POLICIES: Final = ("shop/main", "shop/other", "default/main")
_RIVALRY: Final = (
    "takes everything",
    "is gone",
    "cannot be read",
    "is stuck",
    "copies a ConfigMap",
    "writes a bare ConfigMap",
    "POST",
    "PATCH",
    "DELETE",
)
"""The last three: what the API server then forbids the programs to do with WarmImages of the rival, for ever."""
_PROGRAMS: Final = ("web-0", "web-1", "watch", *(f"agent-{node}" for node in NODES))


class Step(Protocol):
    """One thing that happens."""

    async def happen(self, world: World) -> None: ...


@dataclass(frozen=True, slots=True)
class SetPolicy:
    policy: str
    spec: Spec | None

    async def happen(self, world: World) -> None:
        known = world.history.policies.get(self.policy)
        if self.spec is not None or (known and known[-1][1] is not None):
            world.set_policy(self.policy, self.spec)


@dataclass(frozen=True, slots=True)
class Edited:
    """A person changes some fields of a policy and no other."""

    policy: str
    changes: tuple[tuple[str, Any], ...]

    async def happen(self, world: World) -> None:
        known = world.history.policies.get(self.policy)
        if known and known[-1][1] is not None:
            world.set_policy(self.policy, replace(known[-1][1], **dict(self.changes)))


@dataclass(frozen=True, slots=True)
class Pushed:
    source: str
    image: Image
    tells_digest: bool
    age_seconds: int

    async def happen(self, world: World) -> None:
        world.push(self.source, self.image, tells_digest=self.tells_digest, age=timedelta(seconds=self.age_seconds))


@dataclass(frozen=True, slots=True)
class Replayed:
    which: int

    async def happen(self, world: World) -> None:
        if world.history.pushes:
            world.deliver(self.which % len(world.history.pushes))


@dataclass(frozen=True, slots=True)
class NodeJoins:
    node: str
    labels: int

    async def happen(self, world: World) -> None:
        if self.node not in world.nodes():
            metadata = {"name": self.node, "labels": dict(_LABELS[self.labels])}
            world.ask("POST", paths.NODES, {"metadata": metadata})
        if f"agent-{self.node}" not in world.programs:
            world.start(f"agent-{self.node}")


@dataclass(frozen=True, slots=True)
class NodeLeaves:
    node: str
    returns: bool
    """At once, as when somebody deletes the Node and its kubelet registers it again."""
    takes_agent: bool

    async def happen(self, world: World) -> None:
        labels = world.nodes().get(self.node)
        if labels is None:
            return
        world.ask("DELETE", paths.node(self.node))
        if self.takes_agent and f"agent-{self.node}" in world.programs:
            world.stop(f"agent-{self.node}")
        if self.returns:
            world.ask("POST", paths.NODES, {"metadata": {"name": self.node, "labels": dict(labels)}})
            if f"agent-{self.node}" not in world.programs:
                world.start(f"agent-{self.node}")


@dataclass(frozen=True, slots=True)
class NodeRelabelled:
    node: str
    labels: int

    async def happen(self, world: World) -> None:
        before = world.nodes().get(self.node)
        if before is not None:
            labels = dict.fromkeys(before) | dict(_LABELS[self.labels])
            world.ask("PATCH", paths.node(self.node), {"metadata": {"labels": labels}})


@dataclass(frozen=True, slots=True)
class Crash:
    program: str
    requests: int
    """It dies at this one, counted from now; 0: at once."""
    after: bool
    """The API server has taken that request."""

    async def happen(self, world: World) -> None:
        program = world.programs.get(self.program)
        if program is not None:
            program.dies_in, program.dies_after = self.requests, self.after
            if not self.requests:
                program.kill()


@dataclass(frozen=True, slots=True)
class Trouble:
    """The API server refuses, or does not answer, for a while."""

    kind: str
    seconds: int

    async def happen(self, world: World) -> None:
        world.network.trouble = self.kind
        asyncio.get_running_loop().call_later(self.seconds, self._end, world)

    def _end(self, world: World) -> None:
        world.network.trouble = ""


@dataclass(frozen=True, slots=True)
class WatchesCut:
    forgotten: bool
    """The API server has forgotten its history as well."""

    async def happen(self, world: World) -> None:
        world.network.cuts += 1
        if self.forgotten:
            world.server.compact()


@dataclass(frozen=True, slots=True)
class RuntimeTrouble:
    node: str
    kind: str

    async def happen(self, world: World) -> None:
        runtime = world.runtimes.get(self.node)
        if runtime is None:
            return
        if self.kind == "slow":
            runtime.pull_seconds = world.rng.uniform(0, 20)
        elif self.kind == "fails":
            for reference in list(world.registry)[:2]:
                runtime.fail(reference, "Network")
        elif runtime.listed:
            runtime.lose(world.rng.choice(sorted(runtime.listed)))


@dataclass(frozen=True, slots=True)
class NodeUse:
    """Something besides Warmhook happens to an image of a node."""

    node: str
    kind: str
    image: Image
    """What another client pulls."""

    async def happen(self, world: World) -> None:
        runtime = world.runtimes.get(self.node)
        if runtime is None:
            return
        match self.kind:
            case "another client pulls":
                runtime.bring(str(self.image))
            case "a container starts" if runtime.listed:
                runtime.use(world.rng.choice(sorted(runtime.listed)))
            case "all containers are gone":
                runtime.release()


@dataclass(frozen=True, slots=True)
class PodRuns:
    """A Pod with the label `app` starts on a node, or is gone from it."""

    node: str
    app: str
    image: Image | None
    """`None`: it is gone."""

    async def happen(self, world: World) -> None:
        world.set_pod("shop", self.node, self.app, self.image)


@dataclass(frozen=True, slots=True)
class TagMoves:
    """A tag gets another image in the registry, or the one that it had before, and nobody tells."""

    image: Image
    back: bool

    async def happen(self, world: World) -> None:
        world.move(self.image, back=self.back)


@dataclass(frozen=True, slots=True)
class RegistryTrouble:
    """The registry does not answer handlers, or does again."""

    down: bool

    async def happen(self, world: World) -> None:
        if world.registries is not None:
            world.registries.down = self.down


@dataclass(frozen=True, slots=True)
class HandMade:
    """A person makes or deletes a WarmImage."""

    name: str
    image: Image | None

    async def happen(self, world: World) -> None:
        key = ObjectKey("shop", self.name)
        present = world.ask("GET", paths.warmimages(key))
        if self.image is None:
            if present:
                world.ask("DELETE", paths.warmimages(key))
        elif not present and str(self.image) in world.registry:
            spec = {"image": str(self.image), "nodes": {"limit": 2}}
            world.history.others[self.image.repository] = "Retain"
            body = {"apiVersion": API_VERSION, "kind": "WarmImage", "metadata": {"name": self.name}, "spec": spec}
            world.ask("POST", paths.warmimages_in("shop"), body)


@dataclass(frozen=True, slots=True)
class Rival:
    """Another tenant, hostile or merely unlucky, does something in a namespace of its own."""

    kind: str

    async def happen(self, world: World) -> None:
        match self.kind:
            case "takes everything":
                spec = {
                    "images": list(map(str, IMAGES)),
                    "push": [{"repository": "**", "untagged": True, "keep": 100}],
                    "template": {"pull": {"priority": 1000}},
                }
                self._create(world, "warmpolicies", {"metadata": {"name": "all"}, "spec": spec})
                world.history.others |= dict.fromkeys(_REPOSITORIES, "Retain")
            case "is gone":
                world.ask("DELETE", paths.warmpolicies(ObjectKey(RIVAL, "all")))
            case "cannot be read":
                self._create(world, "warmimages", {"metadata": {"name": "unreadable"}, "spec": {"image": UNREADABLE}})
            case "is stuck":
                world.history.others[IMAGES[0].repository] = "Retain"
                stuck: Object = {"name": "stuck", "finalizers": ["example.com/never"]}
                self._create(world, "warmimages", {"metadata": stuck, "spec": {"image": str(IMAGES[0])}})
                world.ask("DELETE", paths.warmimages(ObjectKey(RIVAL, "stuck")))
            case "copies a ConfigMap":
                found = world.items(paths.configmaps(NAMESPACE))
                for number, obj in enumerate(found[:2]):
                    metadata = {key: obj["metadata"].get(key) for key in ("labels", "annotations")}
                    copy = {"metadata": metadata | {"name": f"copy-{number}"}, "data": {"key": "no line"}}
                    self._ask(world, paths.configmaps(NAMESPACE), copy)
            case "writes a bare ConfigMap":
                for kind in ("desired", "report"):
                    metadata = {"name": f"bare-{kind}", "labels": {"warmhook.dev/kind": kind}}
                    self._ask(world, paths.configmaps(NAMESPACE), {"metadata": metadata})
            case verb:
                world.network.forbidden.add((verb, f"/namespaces/{RIVAL}/warmimages"))

    def _create(self, world: World, plural: str, body: Object) -> None:
        self._ask(world, f"/apis/{API_VERSION}/namespaces/{RIVAL}/{plural}", body)

    def _ask(self, world: World, collection: str, body: Object) -> None:
        if not world.ask("GET", f"{collection}/{body['metadata']['name']}"):
            kind = {"warmpolicies": "WarmPolicy", "warmimages": "WarmImage"}.get(collection.rpartition("/")[2])
            typed = {"apiVersion": API_VERSION, "kind": kind} if kind else {}
            world.ask("POST", collection, typed | body)


@dataclass(frozen=True, slots=True)
class Wait:
    seconds: float

    async def happen(self, world: World) -> None:
        await asyncio.sleep(self.seconds)


# --- sequences -------------------------------------------------------------------------------------------------------

_SHOP, _APP, _OS = frozenset(_REPOSITORIES[:2]), frozenset(_REPOSITORIES[:1]), frozenset(_REPOSITORIES[2:])
_FIRST, _LATEST = frozenset(_TAGS[:2]), frozenset(_TAGS[3:])
_RULES: Final = (
    Rule(f"{HOST}/shop/*", _SHOP, (), frozenset(_TAGS)),
    Rule(f"{HOST}/**", _SHOP | _OS, (("tags", ("v*",)), ("exclude", ("*-debug",))), _FIRST, keep=2),
    Rule(f"{HOST}/shop/app", _APP, (("semver", ">=1.1 <2"),), frozenset(_TAGS[1:2]), keep=3),
    Rule(f"{HOST}/shop/app", _APP, (("tags", ("latest",)),), _LATEST, untagged=True, keep=2),
    Rule(f"{HOST}/base/os", _OS, (("tags", ("latest", "v1*")),), _FIRST | _LATEST),
)
_WHERE: Final = (
    Where(),
    Where(pool="web"),
    Where(names=("node-1", "node-4")),
    Where(limit=1),
    Where(limit="50%"),
    Where(pool="web", names=("node-1", "node-2", "node-3"), limit=2),
    Where(limit=0),
    Where(running="web"),
)


def sequence(rng: Random) -> list[Step]:
    """Up to 30 steps, most of them pushes of one repository, after a policy that wants some of them."""
    kinds, weights = zip(*rng.choice((_KINDS, _KINDS, _LIFE)), strict=True)
    chosen = rng.choices(kinds, weights, k=rng.randint(1, 29))
    return [SetPolicy(_POLICIES[0], _spec(rng)), *(kind(rng) for kind in chosen)]


def _spec(rng: Random) -> Spec:
    once = rng.random() < 0.15
    return Spec(
        named=tuple(rng.sample(IMAGES, rng.choice((0, 0, 1, 2)))),
        rules=tuple(rng.sample(_RULES, rng.choice((0, 1, 1, 1, 2)))),
        where=rng.choice(_WHERE),
        pull=rng.choice(("IfNotPresent", "IfNotPresent", "Always")),
        priority=rng.choice((0, 0, 7)),
        expire_seconds=rng.choice((None, None, 700)),
        invalid=rng.random() < 0.1,
        on_removal="Retain" if once else rng.choice(("Retain", "Delete", "Delete")),
        once=once,
        pinned=rng.random() < 0.15,
        suspend=rng.random() < 0.1,
    )


def _edit(rng: Random) -> Step:
    changes: Final[tuple[tuple[tuple[str, Any], ...], ...]] = (
        (("suspend", True),),
        (("suspend", False),),
        (("purge", True),),
        (("purge", False),),
        (("refresh", f"{rng.random():.9f}"),),
        (("once", True), ("on_removal", "Retain")),
        (("once", False),),
        (("once", False), ("on_removal", rng.choice(("Retain", "Delete")))),
        (("pinned", rng.random() < 0.5),),
    )
    weights = (2, 2, 3, 2, 4, 1, 1, 2, 1)
    return Edited(rng.choice((*_POLICIES[:1] * 3, *_POLICIES)), *rng.choices(changes, weights))


def _use(rng: Random) -> Step:
    kind = rng.choice(("another client pulls", "a container starts", "a container starts", "all containers are gone"))
    node, image = rng.choice(sorted(NODES)), rng.choice(IMAGES)
    pod = PodRuns(node, rng.choice(("web", "db")), image if rng.random() < 0.7 else None)
    return rng.choice((NodeUse(node, kind, image), pod, TagMoves(image, back=rng.random() < 0.4)))


def _policy(rng: Random) -> Step:
    spec = _spec(rng) if rng.random() < 0.75 else None
    return SetPolicy(rng.choice((*_POLICIES[:1] * 2, *_POLICIES)), spec)


def _push(rng: Random) -> Step:
    image = Image(rng.choice((*_REPOSITORIES[:1] * 3, *_REPOSITORIES)), rng.choice((*_TAGS, *_TAGS, *_UNTAGGED)))
    age = rng.choice((0, 0, 0, 0, 30, 400, 1000, -60, -3600))
    return Pushed(rng.choice(SOURCES), image, rng.random() < 0.5, age)


def _node(rng: Random) -> Step:
    name, labels = rng.choice(sorted(NODES)), rng.randrange(len(_LABELS))
    return rng.choice(
        (
            NodeJoins(name, labels),
            NodeRelabelled(name, labels),
            NodeLeaves(name, returns=rng.random() < 0.5, takes_agent=rng.random() < 0.5),
        )
    )


def _trouble(rng: Random) -> Step:
    node = rng.choice(sorted(NODES))
    return rng.choice(
        (
            Trouble(rng.choice(("429", "503", "504", "timeout")), rng.choice((1, 5, 20))),
            WatchesCut(forgotten=rng.random() < 0.5),
            RuntimeTrouble(node, rng.choice(("slow", "fails", "loses"))),
            RegistryTrouble(down=rng.random() < 0.6),
        )
    )


_KINDS: Final[tuple[tuple[Callable[[Random], Step], int], ...]] = (
    (_push, 12),
    (lambda rng: Replayed(rng.randrange(30)), 3),
    (_policy, 3),
    (_edit, 6),
    (_use, 4),
    (_node, 4),
    (lambda rng: Crash(rng.choice(_PROGRAMS), rng.randint(0, 12), after=rng.random() < 0.5), 5),
    (_trouble, 3),
    (lambda rng: HandMade(rng.choice(("mine", "yours")), rng.choice((None, *IMAGES[:4]))), 1),
    (lambda rng: Rival(rng.choice(_RIVALRY)), 3),
    (lambda rng: Wait(rng.choice((0.05, 0.5, 3, 20, 150))), 3),
)
_LIFE: Final[tuple[tuple[Callable[[Random], Step], int], ...]] = (
    (_push, 6),
    (_policy, 2),
    (_edit, 6),
    (_node, 1),
    (_use, 6),
    (_trouble, 1),
    (lambda rng: Crash(rng.choice(_PROGRAMS), rng.randint(0, 12), after=rng.random() < 0.5), 1),
    (lambda rng: Wait(rng.choice((3, 20, 150, 400))), 7),
)
"""What happens to images between pushes that are far apart."""
