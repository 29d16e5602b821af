"""Explain which policy and which rule want an image, or why none does."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from warmhook.api import API_VERSION
from warmhook.checks import Check, command, unreached
from warmhook.durations import format_duration
from warmhook.explain_delivery import accepted_record, delivery_of, missing_delivery
from warmhook.explain_facts import (
    Facts,
    ImageState,
    PolicyState,
    Unread,
    at,
    clean,
    is_image,
    patch,
    push_again,
)
from warmhook.images import Reference
from warmhook.labels import Selector
from warmhook.policies import Policy, decide_push
from warmhook.rules import PushRule, RulePart, refusing_part
from warmhook.warmimages import WarmImage, policy_label

_NEAREST: Final[tuple[RulePart, ...]] = ("unread", "exclude", "semver", "tags", "untagged")
"""The rule that is named first, of several that match the repository only."""
_GLOBS_SHOWN: Final = 5


@dataclass(frozen=True, slots=True)
class Origin:
    """What brought the image, or should have."""

    delivery: Check
    policy: Check
    rule: Check
    by_pods: bool = False
    """Whether only new Pods would bring the image, so that the API server must call Warmhook."""

    @property
    def checks(self) -> list[Check]:
        """In their order."""
        return [self.delivery, self.policy, self.rule]


def origin_of(facts: Facts, image: ImageState, *, warm: bool) -> Origin:
    """What brought a WarmImage that exists."""
    warmimage = image.warmimage
    delivery = delivery_of(facts, warmimage)
    if not warmimage.policy_label:
        by_hand = "not needed: somebody made the WarmImage by hand"
        return Origin(delivery, Check("policy", "skipped", by_hand), Check("rule", "skipped", by_hand))
    if isinstance(facts.policies, Unread):
        return Origin(delivery, _unread(facts.policies), Check("rule", "skipped", "the policy could not be read"))
    state = next((each for each in facts.policies if policy_label(each.key) == warmimage.policy_label), None)
    if state is None:
        message = f"policy {warmimage.policy_name} is gone, so the WarmImage is deleted at one of the next syncs"
        mend = command("kubectl", "-n", warmimage.key.namespace, "get", "warmpolicies")
        return Origin(delivery, Check("policy", "wrong", message, mend, "PolicyGone"), unreached("rule"))
    policy = state.policy
    if warmimage.template.suspend and not warm and (policy is None or policy.template.suspend):
        message = f"policy {state.key} is suspended: nodes pull nothing for it"
        resume = patch("warmpolicy", state.key, "merge", '{"spec":{"suspend":false}}')
        return Origin(delivery, Check("policy", "wrong", message, resume, "Suspended"), _rule_of(warmimage, policy))
    if state.observed and warmimage.pod_origin is not None and warmimage.pod_origin.source != "Admission":
        return Origin(delivery, _not_observed(state), _rule_of(warmimage, policy))
    return Origin(delivery, _usable(state), _rule_of(warmimage, policy))


def missing_origin(facts: Facts) -> Origin:
    """What should have brought an image that has no WarmImage."""
    if isinstance(facts.policies, Unread):
        return Origin(missing_delivery(facts, wanted=False), _unread(facts.policies), unreached("rule"))
    asked = facts.image.canonical.without_digest()
    usable = [(state, state.policy) for state in facts.policies if state.policy is not None]
    for state, policy in usable:
        if policy.names(asked):
            delivery = Check("delivery", "skipped", f"none is needed: policy {state.key} names the image")
            return Origin(delivery, _writing(state), Check("rule", "ok", "spec.images has the image"))
    taking = [(state, policy) for state, policy in usable if policy.wants(asked)]
    if taking:
        state, policy = next((each for each in taking if not each[0].refused), taking[0])
        # Whether it is there is not known if the WarmImages could not be read.
        delivery = missing_delivery(facts, wanted=not isinstance(facts.images, Unread))
        return Origin(delivery, _writing(state), _pushed(facts, policy, asked))
    return _unwanted_origin(facts, usable, asked)


def _unwanted_origin(facts: Facts, usable: Sequence[tuple[PolicyState, Policy]], asked: Reference) -> Origin:
    """What comes nearest to bringing an image that no policy wants."""
    delivery = missing_delivery(facts, wanted=False)
    if nearest := _nearest(usable, asked):
        state, number, rule, part = nearest
        return Origin(delivery, _usable(state), _refused_by(facts, state, (number, rule), part))
    states = () if isinstance(facts.policies, Unread) else facts.policies
    unreadable = next((state for state in states if _may_want(state, asked)), None)
    if unreadable is not None:
        return Origin(delivery, _invalid(unreadable), unreached("rule"))
    for state, policy in usable:
        if policy.pods is not None or policy.rollouts is not None:
            return _of_pods(delivery, state, policy)
    return Origin(delivery, _no_policy(facts, states, asked), unreached("rule"))


# --- policies --------------------------------------------------------------------------------------------------------


def _unread(unread: Unread) -> Check:
    return Check("policy", "unknown", f"the policies could not be read: {unread.problem}", unread.mend, "NotRead")


def _usable(state: PolicyState) -> Check:
    if state.problem:
        return Check("policy", "ok", f"policy {state.key} wants it; a part cannot be read: {clean(state.problem)}")
    return Check("policy", "ok", f"policy {state.key}")


def _writing(state: PolicyState) -> Check:
    """A policy that wants an image which has no WarmImage."""
    if state.refused:
        message = f"the API server refuses WarmImages of policy {state.key}: {clean(state.refused)}"
        return Check("policy", "wrong", message, _describe(state), "WriteRefused")
    return _usable(state)


def _invalid(state: PolicyState) -> Check:
    message = f"policy {state.key} cannot be read: {clean(state.problem)}"
    mend = command("kubectl", "-n", state.key.namespace, "edit", "warmpolicy", state.key.name)
    return Check("policy", "wrong", message, mend, "Invalid")


def _not_observed(state: PolicyState) -> Check:
    message = f"policy {state.key} could not read its Pods or workloads: {clean(state.observed)}"
    return Check("policy", "wrong", message, _describe(state), "PodsNotRead")


def _describe(state: PolicyState) -> str:
    return command("kubectl", "-n", state.key.namespace, "describe", "warmpolicy", state.key.name)


def _may_want(state: PolicyState, asked: Reference) -> bool:
    return bool(state.problem) and (state.policy is None or state.policy.may_have_wanted(asked))


def _no_policy(facts: Facts, states: Sequence[PolicyState], asked: Reference) -> Check:
    where = f"namespace {facts.namespace}" if facts.namespace else "the cluster"
    rule = {"repository": asked.name}
    pushing = _policy_to_extend(states, asked)
    if pushing is not None:
        change = json.dumps([{"op": "add", "path": "/spec/push/-", "value": rule}], separators=(",", ":"))
        mend = patch("warmpolicy", pushing.key, "json", change)
    else:
        name = asked.repository.rpartition("/")[2].replace("_", "-").replace(".", "-")[:40].strip("-")
        policy = {
            "apiVersion": API_VERSION,
            "kind": "WarmPolicy",
            "metadata": {"name": name, "namespace": facts.namespace or "default"},
            "spec": {"push": [rule]},
        }
        # Not `apply`, which would take the other rules out of a policy that has this name.
        mend = f"{command('echo', json.dumps(policy, separators=(',', ':')))} | kubectl create -f -"
    mend = f"{mend} && {push_again(facts)}"
    count = len(states)
    message = f"{where} has no policy" if not count else f"none of the {count} policies of {where} wants {asked.name}"
    if count == 1:
        message = f"the one policy of {where}, {states[0].key}, does not want {asked.name}"
    return Check("policy", "wrong", message, mend, "NoPolicy")


def _policy_to_extend(states: Sequence[PolicyState], asked: Reference) -> PolicyState | None:
    """A policy with a rule for the same folder of the registry, else any if no other namespace has one."""
    folder = f"{asked.name.rpartition('/')[0]}/"
    pushing = [(state, state.policy.push) for state in states if state.policy is not None and state.policy.push]
    near = [state for state, rules in pushing if any(f"{rule.repository}/".startswith(folder) for rule in rules)]
    known = [state for state, _ in pushing] if len({state.key.namespace for state in states}) == 1 else []
    return next(iter(near + known), None)


def _of_pods(delivery: Check, state: PolicyState, policy: Policy) -> Origin:
    """The origin of an image that only Pods or rollouts could bring."""
    if state.observed:
        return Origin(delivery, _not_observed(state), unreached("rule"))
    namespace, pods = state.key.namespace, policy.pods
    what = "workloads" if pods is None else "Pods" if policy.pods_existing else "new Pods"
    selector = (pods if pods is not None else policy.rollouts) or Selector()
    shown = selector.query() or "all of them"
    message = f"policy {state.key} takes the images of {what} ({clean(shown)}), and none with this image was seen"
    kind = "deployments,statefulsets,daemonsets" if pods is None else "pods"
    labels = ("-l", selector.query()) if selector.query() else ()
    mend = command("kubectl", "-n", namespace, "get", kind, *labels, "-o", "wide")
    by_pods = pods is not None and not policy.pods_existing
    return Origin(delivery, _usable(state), Check("rule", "waiting", message, mend, "NoPodSeen"), by_pods)


# --- rules -----------------------------------------------------------------------------------------------------------


def _rule_of(warmimage: WarmImage, policy: Policy | None) -> Check:
    """The rule by which a policy has a WarmImage that exists."""
    if warmimage.pod_origin is not None:
        part = {"Admission": "pods", "Existing": "pods.existing", "Rollout": "rollouts"}[warmimage.pod_origin.source]
        return Check("rule", "ok", f"spec.{part}")
    if policy is None:
        return Check("rule", "skipped", "the policy cannot be read, and earlier WarmImages stay")
    if policy.names(warmimage.image):
        return Check("rule", "ok", "spec.images has the image")
    for number, rule in enumerate(policy.push):
        if refusing_part(rule, warmimage.image) is None:
            return Check("rule", "ok", f"spec.push[{number}]: {clean(rule.repository)}")
    message = f"no rule of policy {policy.key} takes the image any more, so the WarmImage will be deleted"
    mend = command("kubectl", "-n", policy.key.namespace, "edit", "warmpolicy", policy.key.name)
    return Check("rule", "wrong", message, mend, "NotWanted")


def _nearest(
    usable: Sequence[tuple[PolicyState, Policy]], asked: Reference
) -> tuple[PolicyState, int, PushRule, RulePart] | None:
    """The rule that has the repository and refuses the rest, and the part that does."""
    found = [
        (state, number, rule, part)
        for state, policy in usable
        for number, rule in enumerate(policy.push)
        if (part := refusing_part(rule, asked)) in _NEAREST and part is not None
    ]
    return min(found, key=lambda each: _NEAREST.index(each[3]), default=None)


def _refused_by(facts: Facts, state: PolicyState, at_rule: tuple[int, PushRule], part: RulePart) -> Check:
    """That a rule has the repository, and its part refuses the push."""
    number, rule = at_rule
    asked, push = facts.image.canonical, push_again(facts)
    where, tag = f"spec.push[{number}] of policy {state.key}", asked.tag
    edit = command("kubectl", "-n", state.key.namespace, "edit", "warmpolicy", state.key.name) + f" && {push}"

    def add(path: str, value: object) -> str:
        change = [{"op": "add", "path": f"/spec/push/{number}/{path}", "value": value}]
        changed = patch("warmpolicy", state.key, "json", json.dumps(change, separators=(",", ":")))
        return f"{changed} && {push}"

    match part:
        case "tags":
            message = f"{where} takes the tags {_globs(rule.tags)}, and {tag} is none of them"
            return Check("rule", "wrong", message, add("tags/-", tag), "TagNotMatched")
        case "exclude":
            message = f"{where} excludes the tags {_globs(rule.exclude)}, and {tag} is one of them"
            return Check("rule", "wrong", message, edit, "Excluded")
        case "semver":
            message = f"{where} takes versions in a range (semver), and {tag} is not in it"
            return Check("rule", "wrong", message, edit, "NotInRange")
        case "untagged":
            message = f"{where} takes no push without a tag"
            return Check("rule", "wrong", message, add("untagged", value=True), "Untagged")
        case _:
            message = f"{where} cannot be read, so it takes no push: {clean(state.problem)}"
            return Check("rule", "wrong", message, edit, "Invalid")


def _globs(globs: Sequence[str]) -> str:
    return clean(", ".join(globs[:_GLOBS_SHOWN]) + (", ..." if len(globs) > _GLOBS_SHOWN else ""))


def _pushed(facts: Facts, policy: Policy, asked: Reference) -> Check:
    """Whether the policy would take the push, decided as when it arrives."""
    number, rule = next((number, rule) for number, rule in enumerate(policy.push) if refusing_part(rule, asked) is None)
    record = accepted_record(facts)
    pushed_at = facts.now if record is None else record.at
    images = () if isinstance(facts.images, Unread) else facts.images
    of_policy = [each.warmimage for each in images if each.warmimage.policy_label == policy_label(policy.key)]
    existing = [each for each in of_policy if each.image.canonical.name == asked.name and not is_image(asked, each)]
    decision = decide_push(policy, asked, pushed_at, "", existing, facts.now)
    if decision == "superseded":
        return _superseded(facts, policy, number, asked, existing)
    if decision == "expired":
        seconds = policy.template.expire_after_seconds or 0
        kept = f"policy {policy.key} keeps images for {format_duration(seconds)}"
        message = f"{kept}, and the push is of {at(pushed_at, facts.now)}"
        return Check("rule", "wrong", message, push_again(facts), "Expired")
    return Check("rule", "ok", f"spec.push[{number}]: {clean(rule.repository)}")


def _superseded(facts: Facts, policy: Policy, number: int, asked: Reference, existing: Sequence[WarmImage]) -> Check:
    keep = policy.keep(asked)
    pushes = [(each.pushed_at, each.image.tag or each.digest) for each in existing if each.pushed_at is not None]
    moment, newest = max(pushes, default=(facts.now, ""))
    shown = f"; the newest is {clean(newest)}, pushed {at(moment, facts.now)}" if newest else ""
    message = f"policy {policy.key} keeps {keep} build{'s' * (keep > 1)} of the repository, and newer ones came{shown}"
    change = [{"op": "add", "path": f"/spec/push/{number}/keep", "value": keep + 1}]
    mend = patch("warmpolicy", policy.key, "json", json.dumps(change, separators=(",", ":")))
    return Check("rule", "wrong", message, f"{mend} && {push_again(facts)}", "Superseded")
