"""Write to the cluster. Only this module and the reader use the Kubernetes client."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Final, TypeVar

from adapters.clock import Clock
from adapters.kubernetes import paths
from adapters.kubernetes.client import Kubernetes
from adapters.kubernetes.errors import Conflict, NotFound, Refused, Unavailable
from adapters.kubernetes.resolution import resolution_object
from adapters.kubernetes.spec import InvalidObject, NewerObject
from adapters.kubernetes.warmimage import early_patch, push_patch, read_warmimage, warmimage_object, warmimage_patch
from adapters.logs import get_logger
from handlers.reconcile.objects import object_key
from warmhook.api import EARLY_ANNOTATION, POLICY_LABEL, REPOSITORY_LABEL
from warmhook.early_blobs import EarlyBlobs
from warmhook.node_lines import desired_name, new_configmap
from warmhook.node_report import report_name
from warmhook.policies import Upsert
from warmhook.ports import Object
from warmhook.resolutions import Resolution
from warmhook.timestamps import parse_time
from warmhook.warmimages import ObjectKey, PolicyKey, WarmImage, repository_label

_log = get_logger()

Decision = TypeVar("Decision")

# A deletion is fast; an older one waits for a finalizer that stays.
_DELETION: Final = timedelta(minutes=1)
# How often an upsert is decided again after a conflict with another handler.
_ATTEMPTS: Final = 8


@dataclass(eq=False)
class Writer:
    """Writes, and reads only what stands in the way of a write."""

    kubernetes: Kubernetes
    namespace: str
    """Of the node ConfigMaps."""
    clock: Clock

    # --- WarmImages ---

    async def upsert_until_written(
        self, key: ObjectKey, decide: Callable[[int], Awaitable[Upsert | Decision]]
    ) -> Upsert | Decision:
        """Read, decide and write until no other handler writes in between; the decision that held.

        `decide` is told how many writes failed before. Raises `Unavailable` if too many did, and as `upsert` does.
        """
        for attempt in range(_ATTEMPTS):
            decision = await decide(attempt)
            if not isinstance(decision, Upsert) or await self.upsert(decision):
                return decision
        raise Unavailable(f"{_ATTEMPTS} other writes of {key} came first")

    async def upsert(self, upsert: Upsert) -> bool:
        """Create or change a WarmImage; whether it now says what it should. Otherwise the caller decides anew.

        Raises `Refused` if it can never be written, and `Unavailable` if a later attempt may succeed.
        """
        wanted, replaced = upsert.warmimage, upsert.replaces
        try:
            if replaced is not None:
                patch = warmimage_patch(wanted, replaced.resource_version)
                if replaced.early_blobs is not None and wanted.early_blobs is None:
                    # The push has ended.
                    patch["metadata"]["annotations"][EARLY_ANNOTATION] = None
                await self.kubernetes.patch(paths.warmimages(wanted.key), patch)
                return True
            try:
                await self.kubernetes.create(paths.warmimages_in(wanted.key.namespace), warmimage_object(wanted))
            except Conflict as error:
                with contextlib.suppress(NotFound):  # deleted meanwhile
                    return error.reason == "AlreadyExists" and await self._adopt(wanted)
                return False
        except Conflict:
            return False
        except NotFound:
            if replaced is None:
                raise  # its namespace is gone
            return False
        return True

    async def _adopt(self, wanted: WarmImage) -> bool:
        """Take over the object under `wanted`'s name that no list of its policy shows; as `upsert` returns.

        Names are hashes over the policy and the image, so it is one of the policy's that somebody has changed by hand:
        its labels, or its spec to what cannot be read. Raises `Unavailable` while it is being deleted, `Refused` where
        that takes longer than a minute, `Conflict` where it changed meanwhile, and `NotFound` where it was deleted.
        """
        path = paths.warmimages(wanted.key)
        obj = await self.kubernetes.get(path)
        metadata: dict[str, Any] = obj["metadata"]
        if deleted := metadata.get("deletionTimestamp"):
            if self.clock.utcnow() - parse_time(deleted) < _DELETION:
                raise Unavailable(f"{wanted.key} is being deleted", retry_after_seconds=1)
            raise Refused(f"{wanted.key} has been in deletion since {deleted}: a finalizer keeps it")
        try:
            read_warmimage(obj)
        except NewerObject:
            # A newer replica serves it; what a push says must not be lost.
            if wanted.pushed_at is not None and _newer(obj, wanted) == wanted:
                await self.kubernetes.patch(path, push_patch(wanted, metadata["resourceVersion"]))
            return True
        except InvalidObject:
            mended, version = _newer(obj, wanted), metadata["resourceVersion"]
            if (obj.get("spec") or {}).get("image") == str(wanted.image):
                await self.kubernetes.patch(path, warmimage_patch(mended, version))
            else:
                # The image of an object cannot be changed.
                await self.kubernetes.delete(path, uid=metadata["uid"], resource_version=version)
                await self.kubernetes.create(paths.warmimages_in(wanted.key.namespace), warmimage_object(mended))
            _log.warning("warmimage-adopted", warmimage=str(wanted.key), why="unusable")
            return True
        labels = {POLICY_LABEL: wanted.policy_label, REPOSITORY_LABEL: repository_label(wanted.image)}
        if not labels.items() <= (metadata.get("labels") or {}).items():
            body = {"metadata": {"resourceVersion": metadata["resourceVersion"], "labels": labels}}
            await self.kubernetes.patch(path, body)
            _log.warning("warmimage-adopted", warmimage=str(wanted.key), why="labels")
        return False

    async def patch_early_blobs(self, key: ObjectKey, early: EarlyBlobs) -> None:
        """Note the blobs of a push that has not ended in a WarmImage of its repository.

        Whatever its version is: of two replicas one may win, and what the other noted is only fetched later.
        """
        await self.kubernetes.patch(paths.warmimages(key), early_patch(early))

    async def delete_warmimage(self, warmimage: WarmImage) -> None:
        """Delete a WarmImage as it was read; absent already is fine. Raises `Conflict` if it is another by now."""
        path = paths.warmimages(warmimage.key)
        await self.kubernetes.delete(path, uid=warmimage.uid, resource_version=warmimage.resource_version)

    # --- statuses and Events ---

    async def replace_warmimage_status(self, obj: Object, status: Mapping[str, Any]) -> None:
        """Make this the status of a WarmImage. Raises `Conflict` if it is no longer as it was read."""
        gone = (obj.get("status") or {}).keys() - status.keys()
        path, metadata = paths.warmimages(object_key(obj)), obj["metadata"]
        body = {
            "metadata": {"resourceVersion": metadata["resourceVersion"]},
            "status": {**dict.fromkeys(gone), **status},
        }
        await self.kubernetes.patch(paths.status(path), body)

    async def patch_resolution(self, key: ObjectKey, resource_version: str, resolution: Resolution) -> None:
        """Write what a registry said to the status of a WarmImage. Raises `Conflict` if it has another version."""
        await self.patch_warmimage_status(key, resource_version, {"resolved": resolution_object(resolution)})

    async def patch_warmimage_status(self, key: ObjectKey, resource_version: str, status: Mapping[str, Any]) -> None:
        """Write these fields of the status of a WarmImage. Raises `Conflict` if it has another version."""
        body = {"metadata": {"resourceVersion": resource_version}, "status": dict(status)}
        await self.kubernetes.patch(paths.status(paths.warmimages(key)), body)

    async def patch_policy_status(self, key: PolicyKey, resource_version: str, status: Object) -> Object:
        """Write the status of a WarmPolicy and return the object. Raises `Conflict` if it has another version."""
        body = {"metadata": {"resourceVersion": resource_version}, "status": status}
        return await self.kubernetes.patch(paths.status(paths.warmpolicies(key)), body)

    async def create_event(self, event: Object) -> None:
        """Create an Event. Raises `Conflict` if there is one of its name."""
        await self.kubernetes.create(paths.events(event["metadata"]["namespace"]), event)

    # --- the ConfigMaps of nodes ---

    async def patch_desired(self, node: str, patch: Object) -> int:
        """Patch the desired ConfigMap of a node; its size in bytes. Raises `NotFound` if there is none."""
        return await self.kubernetes.patch_size(self._desired(node), patch)

    async def create_desired(self, node: str, patch: Object) -> None:
        """Create the desired ConfigMap of a node from what would patch it. Raises `Conflict` if it exists."""
        body = new_configmap(desired_name(node), patch)
        try:
            await self.kubernetes.create(paths.configmaps(self.namespace), body)
        except NotFound as error:
            raise Refused(f"namespace {self.namespace} does not exist: create it, or set WARMHOOK_NAMESPACE") from error

    async def delete_configmaps(self, node: str) -> None:
        """Delete both ConfigMaps of a Node that is gone; the garbage collector may have done so already."""
        for name in (desired_name(node), report_name(node)):
            await self.kubernetes.delete(paths.configmaps(self.namespace, name))

    def _desired(self, node: str) -> str:
        return paths.configmaps(self.namespace, desired_name(node))


def _newer(obj: Object, wanted: WarmImage) -> WarmImage:
    """`wanted`, with the push of the object if that is later."""
    given = obj.get("spec") or {}
    spec = {"image": str(wanted.image)}
    spec |= {name: given[name] for name in ("digest", "pushedAt") if given.get(name)}
    try:
        stored = read_warmimage({"metadata": obj["metadata"], "spec": spec})
    except InvalidObject:
        return wanted
    if stored.pushed_at is None or (wanted.pushed_at is not None and wanted.pushed_at >= stored.pushed_at):
        return wanted
    return replace(wanted, digest=stored.digest, pushed_at=stored.pushed_at, event_id=stored.event_id)
