"""Explain why one image is, or is not, on one node: the whole chain, and the first thing that is wrong.

Each link is decided by the functions that decide it in the programs: the rules by `warmhook/policies.py`, the nodes by
`warmhook/placement.py`, the lines by `warmhook/node_lines.py`, what a node says by `warmhook/node_report.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from warmhook.checks import Check, command, first_problem, unreached
from warmhook.doctor_leader import leader_check
from warmhook.explain_facts import Facts, ImageState, Unread, at, is_image, push_again
from warmhook.explain_node import agent_check, report_check, runtime_by_status, runtime_check
from warmhook.explain_placement import line_check, node_not_found, placement_check, warmimage_check
from warmhook.explain_policy import Origin, missing_origin, origin_of
from warmhook.warmimages import ObjectKey

SUBJECTS: Final = (
    *("installation", "delivery", "policy", "rule", "warmimage", "placement", "line", "agent", "report", "runtime"),
)
"""The links of the chain, in order."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """The chain of one image and one node."""

    image: str
    node: str
    checks: tuple[Check, ...]
    """One for each of `SUBJECTS`, in order."""
    warmimage: ObjectKey | None = None
    """The WarmImage that was explained: of several the one that came furthest."""
    others: int = 0
    """Further WarmImages of the same image."""

    @property
    def warm(self) -> bool:
        """Whether the runtime of the node has the image as it should be."""
        return self.checks[-1].state == "ok"

    @property
    def culprit(self) -> Check | None:
        """The first thing that is wrong; `None` if all is well.

        A Node that does not exist comes before all others: what is said of it would mend nothing.
        """
        absent = next((each for each in self.checks if each.reason == "NodeNotFound"), None)
        return absent or first_problem(self.checks)

    def as_object(self) -> Mapping[str, Any]:
        """For JSON and YAML."""
        found: dict[str, Any] = {"image": self.image, "node": self.node, "warm": self.warm}
        if self.warmimage is not None:
            found["warmImage"] = str(self.warmimage)
        if self.culprit is not None:
            found["firstProblem"] = self.culprit.as_object()
        return found | {"checks": [check.as_object() for check in self.checks]}


def explain(facts: Facts) -> Explanation:
    """The chain, from the installation to the runtime."""
    found = () if isinstance(facts.images, Unread) else facts.images
    mine = [each for each in found if is_image(facts.image, each.warmimage)]
    named = [each for each in mine if facts.warmimage_name in ("", each.warmimage.key.name)]
    chains = [(_chain(facts, each), each.warmimage.key) for each in named]
    image, node = str(facts.image), facts.node_name
    if not chains:
        return Explanation(image, node, tuple(_chain_without(facts)))
    checks, key = max(chains, key=lambda chain: _progress(chain[0]))
    return Explanation(image, node, tuple(checks), key, len(mine) - 1)


def _progress(checks: Sequence[Check]) -> tuple[bool, int]:
    """Whether the node has the image, and how many links are in order before the first that is not.

    The installation and what is not needed are left aside. What a node has counts most: its policy may be gone.
    """
    held = [check.state in ("ok", "skipped") for check in checks[1:]]
    return checks[-1].state == "ok", held.index(False) if False in held else len(held)


def _chain(facts: Facts, image: ImageState) -> list[Check]:
    """The chain of a WarmImage that exists."""
    runtime = runtime_check(facts, image.warmimage)
    warm = runtime.state == "ok"
    origin = origin_of(facts, image, warm=warm)
    warmimage = warmimage_check(facts, image, warm=warm)
    agent = agent_check(facts)
    if warmimage.state == "wrong":
        after = [_unplaced(facts), unreached("line")]
    else:
        placement = placement_check(facts, image)
        unplaced = placement.state == "wrong"
        after = [placement, unreached("line") if unplaced else line_check(facts, image)]
    blocked = warmimage.state == "wrong" or any(check.state in ("wrong", "waiting") for check in after)
    report = report_check(facts, image.warmimage) if not blocked else unreached("report")
    if agent.state == "wrong":
        report = unreached("report")
    if report.state == "unknown":
        runtime = runtime_by_status(facts, image, placed=after[0].state == "ok")
    elif report.state != "ok":
        runtime = unreached("runtime")
    unwritten = after[-1].state in ("wrong", "waiting") and after[-1].reason in ("NotWritten", "Outdated")
    installation = _installation(facts, origin, unwritten=unwritten)
    return [installation, *origin.checks, warmimage, *after, agent, report, runtime]


def _chain_without(facts: Facts) -> list[Check]:
    """The chain of an image that has no WarmImage."""
    if facts.missing_kinds:
        return [_installation(facts, None, unwritten=True), *map(unreached, SUBJECTS[1:])]
    origin = _unusable_origin() if facts.unusable else missing_origin(facts)
    blocked = any(check.state in ("wrong", "waiting") for check in origin.checks)
    warmimage = _missing(facts, blocked=blocked)
    # What the node says is of use too: both may be broken.
    agent = agent_check(facts)
    unwritten = not blocked or origin.by_pods or origin.delivery.reason == "ApiServer403"
    installation = _installation(facts, origin, unwritten=unwritten)
    rest = [_unplaced(facts), unreached("line"), agent, unreached("report"), unreached("runtime")]
    return [installation, *origin.checks, warmimage, *rest]


def _unusable_origin() -> Origin:
    """What brought a WarmImage that cannot be used; the WarmImage itself comes first to mend."""
    delivery, policy, rule = (
        Check(subject, "skipped", "the WarmImage is there") for subject in ("delivery", "policy", "rule")
    )
    return Origin(delivery, policy, rule)


def _unplaced(facts: Facts) -> Check:
    """The placement of an image that goes to no node."""
    return node_not_found(facts) if facts.node is None else unreached("placement")


def _missing(facts: Facts, *, blocked: bool) -> Check:
    """That there is no WarmImage for the image."""
    if isinstance(facts.images, Unread):
        message = f"the WarmImages could not be read: {facts.images.problem}"
        return Check("warmimage", "unknown", message, facts.images.mend, "NotRead")
    if facts.unusable:
        key, problem = facts.unusable[0]
        message = f"WarmImage {key} cannot be used: {problem}; its lines stay as they were"
        mend = command("kubectl", "-n", key.namespace, "edit", "warmimage", key.name)
        return Check("warmimage", "wrong", message, mend, "Invalid")
    where = f" in namespace {facts.namespace}" if facts.namespace else ""
    if blocked:
        return Check("warmimage", "skipped", f"there is none for this image{where}")
    message = f"there is no WarmImage for {facts.image}{where}, although a policy wants it"
    return Check("warmimage", "wrong", message, push_again(facts), "Missing")


# --- the installation ------------------------------------------------------------------------------------------------


def _installation(facts: Facts, origin: Origin | None, *, unwritten: bool) -> Check:
    """What is wrong with the installation, as far as this image waits for it.

    `unwritten`: something is missing that the handlers should have written.
    """
    if facts.missing_kinds:
        message = f"the CRDs of Warmhook are not installed: {', '.join(facts.missing_kinds)}"
        return Check("installation", "wrong", message, "warmhook crds | kubectl apply --server-side -f -", "CRDMissing")
    problems = [check for check in (_rights(facts), _leader(facts)) if check is not None]
    if origin is not None and origin.by_pods and (webhook := _webhook(facts)):
        problems.insert(0, webhook)
    found = first_problem(problems)
    if found is None:
        return Check("installation", "ok", "in order, as far as this image needs it")
    if unwritten:
        return found
    message = f"{found.message}; this image does not wait for it"
    return Check("installation", "skipped", message, found.mend, found.reason)


def _rights(facts: Facts) -> Check | None:
    if isinstance(facts.denied, Unread):
        message = f"the rights of Warmhook could not be read: {facts.denied.problem}"
        return Check("installation", "unknown", message, facts.denied.mend, "NotRead")
    for account in ("handlers", "web"):
        if missing := facts.denied.get(account):
            message = f"the ServiceAccount of {account} may not {', '.join(missing[:3])}{', ...' * (len(missing) > 3)}"
            return Check("installation", "wrong", message, "kubectl apply --server-side -k .", "Forbidden")
    return None


def _leader(facts: Facts) -> Check | None:
    if isinstance(facts.lease, Unread):
        message = f"the Lease of watch could not be read: {facts.lease.problem}"
        return Check("installation", "unknown", message, facts.lease.mend, "NotRead")
    found = leader_check(facts.lease, facts.now, facts.system_namespace)
    return None if found.state == "ok" else replace(found, subject="installation")


def _webhook(facts: Facts) -> Check | None:
    """What keeps the API server from calling Warmhook for new Pods."""
    webhook = facts.webhook
    if isinstance(webhook, Unread):
        message = f"the webhook configuration could not be read: {webhook.problem}"
        return Check("installation", "unknown", message, webhook.mend, "NotRead")
    if webhook is None:
        message = "the API server does not call Warmhook for new Pods: MutatingWebhookConfiguration warmhook is missing"
        return Check("installation", "wrong", message, "kubectl apply --server-side -k .", "WebhookMissing")
    restart = ("rollout", "restart", "deployment", "warmhook-handlers")
    mend = command("kubectl", "-n", facts.system_namespace, *restart)
    if webhook.by_cert_manager:
        mend = command("kubectl", "-n", facts.system_namespace, "describe", "certificates")
    if not webhook.has_authority:
        message = "the API server trusts no certificate of Warmhook: the caBundle of its webhook is empty"
        return Check("installation", "wrong", message, mend, "NoCaBundle")
    if webhook.expires_at is not None and webhook.expires_at <= facts.now:
        message = f"the certificate that the API server trusts ended {at(webhook.expires_at, facts.now)}"
        return Check("installation", "wrong", message, mend, "CertificateExpired")
    return None
