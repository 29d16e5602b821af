"""Work out a plan: validate what is to be applied, and preview it against the cluster."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal, TypeAlias

from adapters.kubernetes import paths
from adapters.kubernetes.errors import NotFound
from adapters.kubernetes.spec import InvalidObject
from adapters.kubernetes.warmimage import read_warmimage
from adapters.kubernetes.warmpolicy import read_warmpolicy
from cli.cluster import Cluster
from cli.plan.dry_run import DryRun, dry_run
from cli.plan.facts import Gathered, ask_registries, gather
from cli.plan.manifest_files import Manifests
from handlers.reconcile.observations import Observation, observe
from warmhook.checks import Check, named
from warmhook.policies import Policy, policy_changes
from warmhook.ports import Object
from warmhook.preview import NodePreview, Preview, Wanted, later_pushes, preview, preview_nodes
from warmhook.preview_checks import node_checks, preview_checks
from warmhook.warmimages import ObjectKey, Template, WarmImage, policy_label

State: TypeAlias = Literal["new", "changed", "unchanged"]
_PROBLEMS_SHOWN: Final = 20


@dataclass(frozen=True, slots=True)
class Planned:
    """One object of the files."""

    kind: str
    key: ObjectKey
    state: State
    checks: list[Check]
    preview: Preview | None = None
    """`None` if it is invalid as a whole."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The whole plan."""

    objects: tuple[Planned, ...]
    nodes: tuple[NodePreview, ...] = ()
    """With the most bytes first."""
    checks: list[Check] = field(default_factory=list)
    """About the nodes, for all objects together."""

    @property
    def has_problems(self) -> bool:
        """Whether something is invalid, or would not fit."""
        checks = [check for planned in self.objects for check in planned.checks] + self.checks
        return any(check.state == "wrong" for check in checks)


@dataclass(frozen=True, slots=True)
class _Read:
    """An object of the files, and the one of its name that exists."""

    obj: Object
    existing: Object | None
    checks: list[Check]
    wanted: Wanted | None = None
    stored: Object | None = None
    """What the API server would store, with defaults."""

    @property
    def state(self) -> State:
        if self.existing is None:
            return "new"
        return "unchanged" if self.existing.get("spec") == (self.stored or self.obj).get("spec") else "changed"


async def run_plan(cluster: Cluster, manifests: Manifests, *, ask: bool) -> Outcome:
    """The plan for all objects. Raises `KubernetesError` if nodes or WarmImages cannot be read."""
    namespaces = {obj["metadata"]["namespace"] for obj in manifests.objects}
    gathered = await gather(cluster, namespaces)
    read = [await _read(cluster, obj, gathered, manifests.namespaces) for obj in manifests.objects]
    wanted = [each.wanted for each in read if each.wanted is not None]
    gathered = await _with_pods(cluster, gathered, wanted)
    notes: list[Check] = [
        Check("read", "unknown", f"{what} could not be read: {why}", "", "Unread")
        for what, why in gathered.unread.items()
    ]
    if manifests.others:
        many = manifests.others > 1
        what = f"{manifests.others} objects of other kinds are" if many else "1 object of another kind is"
        message = f"{what} not part of the plan"
        notes.append(Check("files", "skipped", message))
    if ask:
        gathered, asked = await _with_sizes(cluster, gathered, wanted)
        notes += asked
    objects = tuple(_planned(each, gathered, asked=ask) for each in read)
    previews = [each.preview for each in objects if each.preview is not None]
    nodes = preview_nodes(previews, gathered.facts)
    return Outcome(objects, tuple(nodes), [*notes, *(node_checks(nodes) if previews else ())])


def _planned(read: _Read, gathered: Gathered, *, asked: bool) -> Planned:
    key = ObjectKey(read.obj["metadata"]["namespace"], read.obj["metadata"]["name"])
    if read.wanted is None:
        return Planned(read.obj["kind"], key, read.state, read.checks)
    shown = preview(read.wanted, gathered.facts)
    checks = preview_checks(shown, gathered.facts, tenancy_unknown=gathered.tenancy_unknown, asked=asked)
    return Planned(read.obj["kind"], key, read.state, [*read.checks, *checks], shown)


async def _read(cluster: Cluster, obj: Object, gathered: Gathered, namespaces: Collection[str]) -> _Read:
    existing = await _existing(cluster, obj)
    local: list[str] = []
    wanted: Wanted | None = None
    extra: list[Check] = []
    try:
        if obj["kind"] == "WarmPolicy":
            policy = read_warmpolicy(obj)
            local += policy.problems
            wanted, extra = await _policy_wanted(cluster, policy, existing, gathered)
        else:
            wanted = _image_wanted(obj, existing)
    except InvalidObject as error:
        local.append(str(error))
    tried = await dry_run(cluster, obj, existing)
    checks = _validity([*tried.problems, *_further(local, tried.problems)], tried)
    if tried.no_namespace and obj["metadata"]["namespace"] not in namespaces:
        namespace = obj["metadata"]["namespace"]
        message, mend = f"there is no namespace {namespace}", f"kubectl create namespace {namespace}"
        checks.append(Check("namespace", "wrong", message, mend, "NoNamespace"))
    return _Read(obj, existing, checks + extra, wanted, tried.object)


def _further(local: Iterable[str], said: Sequence[str]) -> list[str]:
    """The problems that the API server did not name: of fields that none of its messages begins with."""
    fields = {problem.partition(": ")[0] for problem in said}
    quoted = " ".join(said)
    return [
        problem for problem in local if (path := problem.partition(": ")[0]) not in fields and f'"{path}"' not in quoted
    ]


def _validity(problems: Sequence[str], tried: DryRun) -> list[Check]:
    mend = "correct the field: docs/api.md, or kubectl explain"
    checks = [Check("valid", "wrong", problem, mend, "Invalid") for problem in problems[:_PROBLEMS_SHOWN]]
    if len(problems) > _PROBLEMS_SHOWN:
        message = f"{len(problems) - _PROBLEMS_SHOWN} further problems"
        checks.append(Check("valid", "wrong", message, mend, "Invalid"))
    unknown = "its namespace does not exist yet" if tried.no_namespace else tried.unknown
    if unknown:
        message = f"the API server did not check it: {unknown}"
        checks.append(Check("valid", "unknown", message, "", "NotTried"))
    return checks or [Check("valid", "ok", "the API server would accept it")]


async def _existing(cluster: Cluster, obj: Object) -> Object | None:
    key = ObjectKey(obj["metadata"]["namespace"], obj["metadata"]["name"])
    path = paths.warmpolicies(key) if obj["kind"] == "WarmPolicy" else paths.warmimages(key)
    try:
        return await cluster.kubernetes.get(path)
    except NotFound:
        return None


async def _policy_wanted(
    cluster: Cluster, policy: Policy, existing: Object | None, gathered: Gathered
) -> tuple[Wanted, list[Check]]:
    known, label = gathered.facts.warmimages.values(), policy_label(policy.key)
    owned = [one for one in known if one.key.namespace == policy.key.namespace and one.policy_label == label]
    now = cluster.clock.utcnow()
    seen = await observe(cluster.reader, now, policy, owned) or Observation()
    changes = policy_changes(policy, owned, now, seen.images, pods_known=seen.pods_known)
    after = {warmimage.key: warmimage for warmimage in owned}
    for upsert in changes.upserts:
        after[upsert.warmimage.key] = upsert.warmimage
    for warmimage in changes.deletes:
        after.pop(warmimage.key, None)
    later = later_pushes(policy, known, owned)
    before = _policy_before(existing)
    wanted = Wanted("WarmPolicy", policy.key, policy.template, owned, list(after.values()), later, before)
    checks = [Check("observed", "unknown", seen.message, "", seen.reason)] if seen.message else []
    return wanted, checks


def _policy_before(existing: Object | None) -> Template | None:
    if existing is None:
        return None
    try:
        return read_warmpolicy(existing).template
    except InvalidObject:
        return None


def _image_wanted(obj: Object, existing: Object | None) -> Wanted:
    after = read_warmimage(obj)
    before: WarmImage | None = None
    if existing is not None:
        try:
            before = read_warmimage(existing)
        except InvalidObject:
            before = None
    if before is not None:
        # What the registry has said holds as long as the image does, which cannot be changed.
        after = replace(after, resolution=before.resolution, uid=before.uid, created_at=before.created_at)
    template_before = before.template if before is not None else None
    return Wanted(
        "WarmImage", after.key, after.template, [] if before is None else [before], [after], (), template_before
    )


async def _with_pods(cluster: Cluster, gathered: Gathered, wanted: Iterable[Wanted]) -> Gathered:
    images = [warmimage for each in wanted for warmimage in (*each.after, *each.later)]
    running = await cluster.reader.pods.running(images)
    return replace(gathered, facts=replace(gathered.facts, running=running.nodes))


async def _with_sizes(cluster: Cluster, gathered: Gathered, wanted: Iterable[Wanted]) -> tuple[Gathered, list[Check]]:
    images = [
        replace(warmimage.image, digest=warmimage.digest or warmimage.image.digest)
        for each in wanted
        for warmimage in (*each.after, *each.later)
        if warmimage.resolved is None or not warmimage.resolved.size_bytes
    ]
    sizes, problems = await ask_registries(cluster, images)
    facts = replace(gathered.facts, sizes={**gathered.facts.sizes, **sizes})
    checks = []
    if problems:
        first = min(problems)
        message = f"{len(problems)} images have no size there, such as {named([first])}: {problems[first]}"
        checks.append(Check("registries", "unknown", message, "", "Unresolved"))
    return replace(gathered, facts=facts), checks
