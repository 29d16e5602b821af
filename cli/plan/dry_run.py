"""Let the API server check an object without storing it, and name the fields that it does not accept."""

from __future__ import annotations

import json
from dataclasses import dataclass

from adapters.kubernetes import paths
from cli.cluster import Cluster
from cli.plan.manifest_files import KINDS
from warmhook.api import API_VERSION
from warmhook.ports import Object, Response, Unreachable

_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class DryRun:
    """What the API server said."""

    problems: tuple[str, ...] = ()
    """Each begins with the path of its field, where there is one."""
    unknown: str = ""
    """Why it did not check the object; empty if it did."""
    no_namespace: bool = False
    """Whether it did not, because the namespace does not exist."""
    object: Object | None = None
    """What would be stored, with defaults; `None` if it was not accepted."""


async def dry_run(cluster: Cluster, obj: Object, existing: Object | None) -> DryRun:
    """Send the object as it would be created, or as it would replace `existing`. Nothing is stored."""
    namespace, name = obj["metadata"]["namespace"], obj["metadata"]["name"]
    path = f"/apis/{API_VERSION}/namespaces/{paths.segment(namespace)}/{KINDS[obj['kind']]}"
    method, body = "POST", obj
    if existing is not None:
        method, path = "PUT", f"{path}/{paths.segment(name)}"
        version = existing["metadata"]["resourceVersion"]
        body = {**obj, "metadata": {**obj["metadata"], "resourceVersion": version}}
    query = {"dryRun": "All", "fieldValidation": "Strict", "fieldManager": "warmhook-plan"}
    headers = {"content-type": "application/json"}
    try:
        answer = await cluster.transport.request(
            method, path, query=query, headers=headers, body=body, timeout_seconds=_SECONDS
        )
    except Unreachable as error:
        return DryRun(unknown=str(error))
    return _read(answer)


def _read(answer: Response) -> DryRun:
    try:
        status = json.loads(answer.body)
        if answer.status < 300:
            return DryRun(object=status)
        message = str(status.get("message") or answer.status)
        causes = (status.get("details") or {}).get("causes") or []
        problems = tuple(f"{cause['field']}: {cause['message']}" for cause in causes if cause.get("field"))
    except (ValueError, AttributeError, TypeError, KeyError):
        message, problems = f"answer {answer.status}", ()
    if answer.status == 404 and "namespaces " in message:
        return DryRun(no_namespace=True)
    if answer.status in (400, 422):
        _, strict, fields = message.partition("strict decoding error: ")
        return DryRun(problems or ((fields,) if strict else (message,)))
    return DryRun(unknown=message)
