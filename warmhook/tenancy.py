"""Decide what is left of a WarmImage under the limits of its namespace."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from warmhook.api import PURGE_ANNOTATION
from warmhook.labels import Selector
from warmhook.limits import Limits
from warmhook.placement import selector_of
from warmhook.warmimages import Limit, Nodes, WarmImage


def permitted(warmimage: WarmImage) -> WarmImage:
    """The WarmImage with no more than its namespace may have; itself if it asks for no more.

    What is beyond the limits is left out, and the rest works: an image that is not allowed has no node, an option that
    is not allowed has its default, a priority is the highest allowed one.
    """
    limits, template = warmimage.limits, warmimage.template
    if limits is None or (limits.nodes is None and not any(problems(warmimage))):
        return warmimage
    pull = replace(
        template.pull,
        priority=min(template.pull.priority, limits.highest_priority),
        pinned=template.pull.pinned and "Pinned" in limits.allow,
        secrets=template.pull.secrets if "SharePrivate" in limits.allow else (),
    )
    on_removal, own, of_policy = template.on_removal, warmimage.requests, template.requests
    if "Delete" not in limits.allow:
        on_removal, own, of_policy = "Retain", replace(own, purge=False), replace(of_policy, purge=False)
    nodes = _narrowed(template.nodes, limits)
    if not limits.takes(warmimage.image):
        nodes = replace(nodes, limit=Limit(0))
    template = replace(template, nodes=nodes, pull=pull, on_removal=on_removal, requests=of_policy)
    return replace(warmimage, template=template, requests=own)


def problems(warmimage: WarmImage) -> Iterator[str]:
    """What the WarmImage asks for and its namespace may not have, each beginning with the field."""
    limits, template = warmimage.limits, warmimage.template
    if limits is None:
        return
    namespace = warmimage.key.namespace
    if not limits.takes(warmimage.image):
        yield f"spec.image: namespace {namespace} may not have images of {warmimage.image.canonical.name}"
    if template.pull.priority > limits.highest_priority:
        yield f"spec.pull.priority: the highest of namespace {namespace} is {limits.highest_priority}"
    if template.pull.pinned and "Pinned" not in limits.allow:
        yield f"spec.pull.pinned: not allowed in namespace {namespace}"
    if template.pull.secrets and "SharePrivate" not in limits.allow:
        yield f"spec.pull.sharePrivate: not allowed in namespace {namespace}"
    if template.on_removal == "Delete" and "Delete" not in limits.allow:
        yield f"spec.onRemoval: Delete is not allowed in namespace {namespace}"
    if warmimage.purged and "Delete" not in limits.allow:
        yield f"annotation {PURGE_ANNOTATION}: Delete is not allowed in namespace {namespace}"


def _narrowed(nodes: Nodes, limits: Limits) -> Nodes:
    if limits.nodes is None:
        return nodes
    return replace(nodes, selector=Selector((*selector_of(nodes).requirements, *limits.nodes.requirements)))
