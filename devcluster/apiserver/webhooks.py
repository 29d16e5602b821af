"""Decide which mutating webhooks the creation of a Pod calls, and apply their answers. Without sockets.

`matchConditions` are kept and not evaluated: they count as true.

The order, the second round and the messages are those of the real server:
https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final, TypeAlias
from uuid import UUID

from devcluster.apiserver.errors import StatusError
from devcluster.apiserver.patches import json_patched
from devcluster.apiserver.resources import Resource
from warmhook.labels import parse_selector
from warmhook.ports import Object

_API_VERSION: Final = "admission.k8s.io/v1"
_USER: Final = {"username": "admin", "uid": "admin", "groups": ["system:masters", "system:authenticated"]}
_DEFAULTS: Final[Object] = {
    "failurePolicy": "Fail",
    "matchPolicy": "Equivalent",
    "namespaceSelector": {},
    "objectSelector": {},
    "reinvocationPolicy": "Never",
    "timeoutSeconds": 10,
}


@dataclass(frozen=True, slots=True)
class Call:
    """One request to a webhook."""

    url: str
    """https; of a Service its name in the cluster."""
    authorities: bytes
    """PEM; empty: those of the machine."""
    timeout_seconds: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back."""

    status: int
    body: bytes


class NoReply(Exception):
    """Nothing came back; the message has the reason."""


Reviewing: TypeAlias = Generator[Call, Reply | NoReply, Object]
"""Yields each call, is sent its reply, and returns the object as it is to be stored. Raises `StatusError`."""


class _Failed(Exception):
    """The call failed; `failurePolicy` decides what follows."""


@dataclass(slots=True)
class Draft:
    """A creation under review."""

    resource: Resource
    namespace: str
    object: Object
    options: Object
    dry_run: bool
    namespace_labels: Mapping[str, str]
    random: Random
    changes: int = 0
    """How often a webhook has changed the object."""
    seen: dict[int, int] = field(default_factory=dict)
    """Position of a webhook to `changes` after its call."""


def reviewed(configurations: list[Object], draft: Draft) -> Reviewing:
    """Call every webhook that matches, and those a second time that want it and whose object changed since."""
    hooks = [hook for one in _by_name(configurations) for hook in one.get("webhooks") or []]
    for position, hook in enumerate(hooks):
        yield from _review(hook, position, draft)
    for position, hook in enumerate(hooks):
        again = hook.get("reinvocationPolicy") == "IfNeeded" and position in draft.seen
        if again and draft.seen[position] < draft.changes:
            yield from _review(hook, position, draft)
    return draft.object


def _by_name(configurations: list[Object]) -> list[Object]:
    return sorted(configurations, key=lambda one: str(one["metadata"]["name"]))


def _review(hook: Object, position: int, draft: Draft) -> Generator[Call, Reply | NoReply, None]:
    if not _matches_rules(hook, draft.resource) or not _selects(hook, draft):
        return
    request = _request(draft)
    try:
        if draft.dry_run and hook.get("sideEffects") not in ("None", "NoneOnDryRun"):
            message = f'admission webhook "{hook["name"]}" does not support dry run'
            raise StatusError(400, "BadRequest", message)
        review = {"kind": "AdmissionReview", "apiVersion": _API_VERSION, "request": request}
        reply = yield Call(
            url=_url(hook),
            authorities=_decoded((hook.get("clientConfig") or {}).get("caBundle") or ""),
            timeout_seconds=hook["timeoutSeconds"],
            body=json.dumps(review).encode(),
        )
        changed = _judged(hook["name"], reply, request["uid"], draft.object)
    except _Failed as error:
        if hook.get("failurePolicy") == "Ignore":
            return
        message = f'Internal error occurred: failed calling webhook "{hook["name"]}": {error}'
        raise StatusError(500, "InternalError", message, {"causes": [{"message": str(error)}]}) from error
    if changed != draft.object:
        draft.object = changed
        draft.changes += 1
    draft.seen[position] = draft.changes


def _request(draft: Draft) -> Object:
    resource, metadata = draft.resource, draft.object["metadata"]
    kind = {"group": resource.group, "version": resource.version, "kind": resource.kind}
    plural = {"group": resource.group, "version": resource.version, "resource": resource.plural}
    named = {"name": metadata["name"]} if metadata.get("name") else {}
    return {
        "uid": str(UUID(int=draft.random.getrandbits(128), version=4)),
        "kind": kind,
        "resource": plural,
        "requestKind": kind,
        "requestResource": plural,
        **named,
        "namespace": draft.namespace,
        "operation": "CREATE",
        "userInfo": _USER,
        "object": draft.object,
        "oldObject": None,
        "dryRun": draft.dry_run,
        "options": draft.options,
    }


def _matches_rules(hook: Object, resource: Resource) -> bool:
    def named(rule: Object, field_name: str, *values: str) -> bool:
        return bool({"*", *values} & set(rule.get(field_name) or []))

    return any(
        named(rule, "operations", "CREATE")
        and named(rule, "apiGroups", resource.group)
        and named(rule, "apiVersions", resource.version)
        and named(rule, "resources", resource.plural, "*/*")
        and rule.get("scope", "*") in ("*", "Namespaced" if resource.namespaced else "Cluster")
        for rule in hook.get("rules") or []
    )


def _selects(hook: Object, draft: Draft) -> bool:
    labels = draft.object["metadata"].get("labels") or {}
    pairs = (("namespaceSelector", draft.namespace_labels), ("objectSelector", labels))
    return all(parse_selector(hook.get(name) or {}).matches(found) for name, found in pairs)


def _url(hook: Object) -> str:
    client = hook["clientConfig"]
    service = client.get("service")
    if service is None:
        url = str(client["url"])
    else:
        port = service.get("port") or 443
        path = str(service.get("path") or "/").lstrip("/")
        url = f"https://{service['name']}.{service['namespace']}.svc:{port}/{path}"
    return f"{url}{'&' if '?' in url else '?'}timeout={hook['timeoutSeconds']}s"


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise _Failed("unable to load root certificates: caBundle is no base64") from error


def _judged(name: str, reply: Reply | NoReply, uid: str, obj: Object) -> Object:
    """The object after a webhook's answer. Raises `_Failed`, and `StatusError` where the answer is no."""
    response = _response(reply, uid)
    if response.get("allowed") is not True:
        status = response.get("status") or {}
        why = f": {status['message']}" if status.get("message") else " without explanation"
        code = status.get("code") or 403
        raise StatusError(
            code, status.get("reason") or "Forbidden", f'admission webhook "{name}" denied the request{why}'
        )
    if not response.get("patch"):
        return obj
    if response.get("patchType") != "JSONPatch":
        raise _Failed(f"webhook returned patch with patchType {response.get('patchType')!r}")
    try:
        patched = json_patched(obj, json.loads(base64.b64decode(response["patch"])))
    except (ValueError, TypeError, StatusError) as error:
        raise _Failed(f"error applying the patch: {error}") from error
    if not isinstance(patched, dict) or not isinstance(patched.get("metadata"), dict):
        raise _Failed("the patched object is no object")
    return patched


def _response(reply: Reply | NoReply, uid: str) -> Object:
    if isinstance(reply, NoReply):
        raise _Failed(f"failed to call webhook: {reply}")
    if reply.status != 200:
        raise _Failed(f"failed to call webhook: an error on the server, status {reply.status}")
    try:
        review = json.loads(reply.body)
        response: Any = review["response"]
        if review["kind"] != "AdmissionReview" or review["apiVersion"] != _API_VERSION:
            raise _Failed(f"expected webhook response of {_API_VERSION}, Kind=AdmissionReview")
        if response["uid"] != uid:
            raise _Failed(f"expected response.uid={uid!r}, got {response['uid']!r}")
    except (ValueError, KeyError, TypeError) as error:
        raise _Failed(f"webhook response is no AdmissionReview: {error}") from error
    found: Object = response
    return found


# --- configurations --------------------------------------------------------------------------------------------------


def completed(obj: Object) -> Object:
    """A MutatingWebhookConfiguration with the defaults that the server fills in."""
    hooks = obj.get("webhooks")
    if not hooks:
        return obj
    filled = []
    for hook in hooks:
        rules = [{"scope": "*", **rule} for rule in hook.get("rules") or []]
        given = {name: value for name, value in hook.items() if value is not None}
        filled.append({**_DEFAULTS, **given, **({"rules": rules} if rules else {})})
    return {**obj, "webhooks": filled}
