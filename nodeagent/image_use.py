"""Read what uses the images of a node: its lines at the API server, containers, Pod sandboxes and Pods."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass, replace
from typing import Final

from adapters.kubernetes.errors import KubernetesError, NotFound
from adapters.kubernetes.paths import configmaps, pods
from nodeagent.context import Context
from nodeagent.desired import read_desired
from warmhook.api import DROPPED_ANNOTATION
from warmhook.desired_lines import select_lines
from warmhook.node_lines import REFUSED_MAX, desired_name
from warmhook.ports import Object, RuntimeImage, RuntimeUnreachable
from warmhook.removals import Demand, UnreadablePod, Use, pod_images

LOOK_SECONDS: Final = 15.0
"""The limit for what the runtime shows, and for what the API server does."""
# The API server answers from its cache, which has an index by node. With a list from etcd, every agent would make it
# read all Pods of the cluster.
_FROM_CACHE: Final = "0"

ALLOW_PODS: Final = (
    "kubectl create clusterrolebinding warmhook-agent-pods --clusterrole=warmhook-pods "
    "--serviceaccount=warmhook-agents:warmhook-agent"
)
"""What an administrator runs so that agents may list Pods."""


class UseUnknown(Exception):
    """What uses images could not be read, so all of them stay."""

    def __init__(self, what: str, error: str, hint: str = "") -> None:
        super().__init__(f"{what}: {error}")
        self.what = what
        """The same for the same cause."""
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Look:
    """What one look at a node showed."""

    images: Collection[RuntimeImage]
    demand: Demand
    use: Use


async def look_at_runtime(context: Context) -> Look:
    """The images of the runtime, and those of its containers and sandboxes. Raises `UseUnknown`."""
    async with _of_runtime():
        images = await context.runtime.images()
        return Look(images, Demand(), Use(await context.runtime.used_images()))


async def look_at_images(context: Context, found: Look) -> Look:
    """What was found, with the images as the runtime has them now. Raises `UseUnknown`."""
    async with _of_runtime():
        return replace(found, images=await context.runtime.images())


@contextlib.asynccontextmanager
async def _of_runtime() -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(LOOK_SECONDS):
            yield
    except RuntimeUnreachable as error:
        raise UseUnknown("runtime", str(error)) from error
    except TimeoutError as error:
        raise UseUnknown("runtime", f"no answer within {LOOK_SECONDS:g} s") from error


async def look_at_cluster(context: Context, found: Look) -> Look:
    """Add the lines and the Pods of the node as the API server has them. Raises `UseUnknown`."""
    try:
        async with asyncio.timeout(LOOK_SECONDS):
            return Look(found.images, await _demand(context), Use(found.use.containers, await _pods(context)))
    except TimeoutError as error:
        raise UseUnknown("api-server", f"no answer within {LOOK_SECONDS:g} s") from error


async def _demand(context: Context) -> Demand:
    """The lines of the ConfigMap as it is now, by a consistent read."""
    settings = context.settings
    try:
        configmap = await context.kubernetes.get(configmaps(settings.namespace, desired_name(settings.node)))
    except NotFound as error:
        raise UseUnknown("configmap-missing", str(error), "the handlers create the ConfigMap again") from error
    except KubernetesError as error:
        raise UseUnknown("configmap-not-read", str(error)) from error
    desired = read_desired(configmap)
    annotations = (configmap.get("metadata") or {}).get("annotations") or {}
    refused = [key for key in annotations.get(DROPPED_ANNOTATION, "").split(",") if key]
    selection = select_lines(desired.data, {}, 0.0)
    if selection.malformed or not desired.resource_version:
        raise UseUnknown("configmap-unreadable", f"lines that cannot be read: {len(selection.malformed)}")
    if len(refused) >= REFUSED_MAX:
        raise UseUnknown("configmap-full", f"{len(refused)} lines have no room, and others are not listed")
    wanted = (*selection.lines.values(), *selection.surplus.values())
    return Demand([each.line for each in wanted], refused)


async def _pods(context: Context) -> list[str]:
    """The images of all Pods of the node."""
    node = context.settings.node

    def images_only(pod: Object) -> Object:
        return {"images": pod_images(pod)}

    try:
        listed = await context.kubernetes.list(
            pods(), fields=f"spec.nodeName={node}", not_older_than=_FROM_CACHE, keep=images_only
        )
    except UnreadablePod as error:
        raise UseUnknown("pod-unreadable", str(error), "correct or delete the Pod") from error
    except KubernetesError as error:
        hint = f"allow agents to list Pods: {ALLOW_PODS}" if error.status == 403 else ""
        raise UseUnknown("pods-forbidden" if hint else "pods-not-listed", str(error), hint) from error
    return [text for pod in listed.items for text in pod["images"]]
