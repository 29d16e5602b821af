"""Check an installation: its definitions, rights, clocks, programs and leader. Facts come in, checks come out."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from warmhook.checks import Check, named
from warmhook.rights import Right

_SKEW_NOTED: Final = timedelta(seconds=5)
_SKEW_WRONG: Final = timedelta(seconds=60)
"""The API server allows tokens so much: https://kubernetes.io/docs/reference/access-authn-authz/authentication/."""
_IMAGES_NAMED: Final = 3
_APPLY: Final = "apply the manifests of your version again: docs/install.md"


# --- the API server and its clock ------------------------------------------------------------------------------------


def api_check(host: str, version: str) -> Check:
    """The API server, which answered; without a version it may be a proxy that did."""
    if not version:
        message = f"{host} answers, and names no version of Kubernetes: it may be no API server"
        return Check("apiserver", "unknown", message, "kubectl cluster-info", "NoVersion")
    return Check("apiserver", "ok", f"{host} answers, Kubernetes {version}")


def clock_check(server: datetime | None, local: datetime) -> Check:
    """The clock of the API server, in whole seconds, against that of this machine."""
    if server is None:
        return Check("clock", "unknown", "the API server does not say its time", "", "Unread")
    skew = server - local
    seconds = f"{abs(skew).total_seconds():.0f} s"
    if abs(skew) < _SKEW_NOTED:
        return Check("clock", "ok", "the clocks of the API server and of this machine agree")
    which = "ahead of" if skew > timedelta(0) else "behind"
    message = f"the API server is {seconds} {which} this machine"
    state, mend = "wrong" if abs(skew) >= _SKEW_WRONG else "waiting", "check NTP on both: chronyc tracking"
    return Check("clock", "wrong" if state == "wrong" else "waiting", message, mend, "ClockSkew")


# --- CustomResourceDefinitions ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Definition:
    """A CustomResourceDefinition as it is installed."""

    name: str
    exists: bool = True
    established: bool = True
    served: bool = True
    """Whether the version of this command is served."""
    same_schema: bool = True
    """Whether its schema is that of this command."""
    stored: Sequence[str] = ()
    """The versions in which objects may be stored."""


def definition_check(definitions: Sequence[Definition], version: str) -> Check:
    """All definitions; the first that is not as it should be names the problem."""
    mend = "warmhook crds | kubectl apply --server-side -f -"
    for each in definitions:
        if not each.exists:
            return Check("crds", "wrong", f"{each.name} is not installed", mend, "NotInstalled")
        if not each.established:
            message = f"{each.name} is not established"
            return Check("crds", "wrong", message, f"kubectl describe crd {each.name}", "NotEstablished")
        if not each.served:
            return Check("crds", "wrong", f"{each.name} does not serve {version}", mend, "NotServed")
    if other := [each.name for each in definitions if not each.same_schema]:
        message = f"the schema of {named(other)} is not that of this command"
        return Check("crds", "wrong", message, f"{mend}, or use the command of the installed version", "OtherSchema")
    if old := [each.name for each in definitions if set(each.stored) - {version}]:
        message = f"objects of {named(old)} may be stored in an old version"
        return Check("crds", "waiting", message, "migrate them before an upgrade removes that version", "OldVersion")
    return Check("crds", "ok", f"{len(definitions)} are installed with the schemas of this command")


# --- rights ----------------------------------------------------------------------------------------------------------


def rights_check(missing: Mapping[str, Sequence[Right]], accounts: int, absent: Collection[str], unknown: str) -> Check:
    """The rights of the programs. `missing` by ServiceAccount; `unknown` says why some could not be reviewed."""
    if len(absent) == accounts:
        message = "no ServiceAccount of Warmhook exists; the programs may run elsewhere"
        return Check("rights", "unknown", message, _APPLY, "NoAccount")
    if absent:
        return Check("rights", "wrong", f"no ServiceAccount {named(absent)}", _APPLY, "NoAccount")
    if missing:
        account, rights = next(iter(sorted(missing.items())))
        message = f"{account} may not {named(map(str, rights))}"
        return Check("rights", "wrong", message, f"{_APPLY} (rbac.yaml)", "RightMissing")
    if unknown:
        mend = "ask for the right to create subjectaccessreviews"
        return Check("rights", "unknown", f"access could not be reviewed: {unknown}", mend, "Unread")
    return Check("rights", "ok", f"{accounts} ServiceAccounts may do what their programs do")


def own_rights_check(missing: Sequence[str]) -> Check:
    """What the caller may not read."""
    if not missing:
        return Check("you", "ok", "you may read all that is checked here")
    message = f"you may not {named(missing)}: what depends on it is unknown"
    return Check("you", "unknown", message, "ask an administrator for these rights", "RightMissing")


# --- Deployments, DaemonSet ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Workload:
    """A Deployment or the DaemonSet."""

    kind: str
    namespace: str
    name: str
    wanted: int
    """Pods that there should be."""
    updated: int
    available: int
    observed: bool = True
    """Whether its controller has seen its last change."""
    images: Sequence[str] = ()
    created: int = 0
    """Pods that there are; of a DaemonSet only."""

    @property
    def command(self) -> str:
        """What shows more of it."""
        return f"kubectl -n {self.namespace} describe {self.kind.lower()} {self.name}"


def workload_checks(deployments: Sequence[Workload], daemon_set: Workload | None) -> list[Check]:
    """The programs of the handlers, and the agents."""
    return [_deployments(deployments), _daemon_set(daemon_set), _versions(deployments, daemon_set)]


def _deployments(found: Sequence[Workload]) -> Check:
    if not found:
        mend = "apply the manifests: docs/install.md; elsewhere, check the processes yourself"
        return Check(
            "programs", "unknown", "there is no Deployment; the programs may run elsewhere", mend, "NoDeployment"
        )
    for each in found:
        if each.wanted and not each.available:
            return Check("programs", "wrong", f"{each.name}: no Pod is available", each.command, "NotAvailable")
    for each in found:
        if not each.observed or each.updated < each.wanted or each.available < each.wanted:
            message = f"{each.name}: {each.updated} of {each.wanted} Pods updated, {each.available} available"
            return Check("programs", "waiting", message, each.command, "RollingOut")
    return Check("programs", "ok", f"{named(each.name for each in found)}: all Pods are available")


def _daemon_set(found: Workload | None) -> Check:
    if found is None:
        mend = "apply the manifests: docs/install.md; elsewhere, check the processes yourself"
        return Check("daemonset", "unknown", "there is no DaemonSet warmhook-agent", mend, "NoDaemonSet")
    if not found.wanted:
        return Check("daemonset", "wrong", "it selects no node", found.command, "NoNodes")
    if not found.available:
        return Check("daemonset", "wrong", f"no agent of {found.wanted} is available", found.command, "NotAvailable")
    if found.available < found.wanted or found.updated < found.wanted or not found.observed:
        message = f"{found.available} of {found.wanted} agents available, {found.updated} of the newest version"
        return Check("daemonset", "waiting", message, found.command, "RollingOut")
    return Check("daemonset", "ok", f"all {found.wanted} agents are available, and of one version")


def _versions(deployments: Sequence[Workload], daemon_set: Workload | None) -> Check:
    """Programs of different versions work together for one release; they should not stay so."""
    found: dict[str, set[str]] = {}
    for each in [*deployments, *([daemon_set] if daemon_set else [])]:
        for image in each.images:
            found.setdefault(image, set()).add(each.name)
    if not found:
        return Check("versions", "skipped", "no program runs as a Pod here")
    if len(found) > 1:
        message = "; ".join(f"{named(names)} of {image}" for image, names in sorted(found.items())[:_IMAGES_NAMED])
        return Check("versions", "waiting", f"not all are of one image: {message}", _APPLY, "OtherVersion")
    return Check("versions", "ok", f"all programs are of {next(iter(found))}")


# --- what is beside it -----------------------------------------------------------------------------------------------


def quota_check(used: int | None, hard: int | None, daemon_set: Workload | None) -> Check:
    """The quota that lets agents have a system priority; `None`: there is none, or it has no such number."""
    lacking = daemon_set is not None and daemon_set.created < daemon_set.wanted
    if used is not None and hard is not None and used >= hard:
        message = f"the quota warmhook-critical-pods allows {hard} Pods, and there are {used}"
        return Check("quota", "wrong", message, "raise spec.hard.pods", "QuotaFull")
    if hard is None and lacking:
        message = "agents have no Pods, and no quota allows their priority, which GKE requires"
        return Check("quota", "wrong", message, "kubectl apply -f knative/base/critical-pods.yaml", "NoQuota")
    if hard is None:
        return Check("quota", "skipped", "there is no quota for critical Pods; few clusters need it")
    return Check("quota", "ok", f"critical Pods have room: {used or 0} of {hard}")


_OTHERS: Final = {
    "imagecaches.kubefledged.io": "kube-fledged",
    "imagepulljobs.apps.kruise.io": "OpenKruise",
    "nodeimages.apps.kruise.io": "OpenKruise",
}
OTHER_CRDS: Final = tuple(_OTHERS)
"""Of other programs that pull and delete images on nodes."""


def others_check(present: Collection[str]) -> Check:
    """Other programs that pull images ahead: a hint only."""
    names = sorted({_OTHERS[name] for name in present})
    if not names:
        return Check("others", "ok", "no other program that pulls images ahead is installed")
    message = f"{named(names)} is installed as well: what it deletes, agents pull again while it is wanted"
    return Check("others", "ok", message, "let one of them have each image", "OtherPrefetcher")
