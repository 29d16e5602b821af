"""Create or change a WarmImage, and take over one that stands under its name but that no list of its policy shows.

Names are hashes over the policy and the image, so such an object is one of the policy's that somebody has changed by
hand: its labels, or its spec to what cannot be read.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any, Final

from adapters.kubernetes import paths
from adapters.kubernetes.client import Conflict, Kubernetes, NotFound, Refused, Unavailable
from adapters.kubernetes.template import InvalidObject
from adapters.kubernetes.warmimage import read_warmimage, warmimage_object, warmimage_patch
from adapters.logs import get_logger
from warmhook.api import POLICY_LABEL, REPOSITORY_LABEL
from warmhook.policies import Upsert
from warmhook.ports import Object, Utcnow
from warmhook.timestamps import parse_time
from warmhook.warmimages import WarmImage, repository_label

__all__ = ["upsert_warmimage"]

_log = get_logger()

# Deletions take moments; one that is older waits for a finalizer that nobody removes.
_DELETION: Final = timedelta(minutes=1)


async def upsert_warmimage(kubernetes: Kubernetes, upsert: Upsert, now: Utcnow) -> bool:
    """Create or change a WarmImage; whether it now says what it should. Otherwise the caller reads and decides anew.

    Raises `Refused` where it can never be written, and `Unavailable` where that may be later.
    """
    wanted, replaced = upsert.warmimage, upsert.replaces
    try:
        if replaced is not None:
            await kubernetes.patch(paths.warmimages(wanted.key), warmimage_patch(wanted, replaced.resource_version))
            return True
        try:
            await kubernetes.create(paths.warmimages_in(wanted.key.namespace), warmimage_object(wanted))
        except Conflict as error:
            return error.reason == "AlreadyExists" and await _adopt(kubernetes, wanted, now)
    except Conflict:
        return False
    except NotFound:
        if replaced is None:
            raise  # its namespace is gone
        return False
    return True


async def _adopt(kubernetes: Kubernetes, wanted: WarmImage, now: Utcnow) -> bool:
    """Make the object under `wanted`'s name one of its policy's again; whether it now says what `wanted` says.

    Where it does not, because it was readable, or is gone, the caller decides anew. Raises `Unavailable` while it is
    being deleted, `Refused` where that takes longer than a minute, and `Conflict` where it changed meanwhile.
    """
    path = paths.warmimages(wanted.key)
    try:
        obj = await kubernetes.get(path)
    except NotFound:
        return False
    metadata: dict[str, Any] = obj["metadata"]
    if deleted := metadata.get("deletionTimestamp"):
        if now() - parse_time(deleted) < _DELETION:
            raise Unavailable(f"{wanted.key} is being deleted", retry_after_seconds=1)
        raise Refused(f"{wanted.key} has been in deletion since {deleted}: a finalizer keeps it")
    try:
        read_warmimage(obj)
    except InvalidObject:
        await kubernetes.patch(path, warmimage_patch(_newer(obj, wanted), metadata["resourceVersion"]))
        _log.warning("warmimage-adopted", warmimage=str(wanted.key), why="unusable")
        return True
    labels = {POLICY_LABEL: wanted.policy_label, REPOSITORY_LABEL: repository_label(wanted.image)}
    if not labels.items() <= (metadata.get("labels") or {}).items():
        body = {"metadata": {"resourceVersion": metadata["resourceVersion"], "labels": labels}}
        await kubernetes.patch(path, body)
        _log.warning("warmimage-adopted", warmimage=str(wanted.key), why="labels")
    return False


def _newer(obj: Object, wanted: WarmImage) -> WarmImage:
    """`wanted`, with the push that the object tells of where that is the later one."""
    spec = {"image": str(wanted.image)}
    said = obj.get("spec") or {}
    spec |= {name: said[name] for name in ("digest", "pushedAt") if said.get(name)}
    try:
        stored = read_warmimage({"metadata": obj["metadata"], "spec": spec})
    except InvalidObject:
        return wanted
    if stored.pushed_at is None or (wanted.pushed_at is not None and wanted.pushed_at >= stored.pushed_at):
        return wanted
    return replace(wanted, digest=stored.digest, pushed_at=stored.pushed_at, event_id=stored.event_id)
