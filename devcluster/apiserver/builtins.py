"""Complete objects of the built-in kinds, and validate those that Warmhook writes."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator
from typing import Any

from devcluster.apiserver import schema, webhooks
from devcluster.apiserver.errors import Cause
from devcluster.apiserver.metadata import map_error
from devcluster.apiserver.resources import Resource
from warmhook.ports import Object

_CONFIG_KEY = re.compile(r"[-._a-zA-Z0-9]{1,253}")
_KEY_RULE = "a valid config key must consist of alphanumeric characters, '-', '_' or '.'"
_DATA_LIMIT_BYTES = 1024 * 1024
_NOT_READY = {"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}
_POD_TOLERATIONS = [
    {"key": f"node.kubernetes.io/{state}", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}
    for state in ("not-ready", "unreachable")
]
_NODE_INFO = dict.fromkeys(
    (
        "machineID",
        "systemUUID",
        "bootID",
        "kernelVersion",
        "osImage",
        "containerRuntimeVersion",
        "kubeletVersion",
        "kubeProxyVersion",
        "operatingSystem",
        "architecture",
    ),
    "",
)


def _namespace(obj: Object) -> Object:
    metadata = obj["metadata"]
    labels = {**metadata.get("labels", {}), "kubernetes.io/metadata.name": metadata["name"]}
    return {
        **obj,
        "metadata": {**metadata, "labels": labels},
        "spec": {"finalizers": ["kubernetes"]},
        "status": {"phase": "Active"},
    }


def _node(obj: Object) -> Object:
    # The TaintNodesByCondition admission taints every new node; the taint goes when the node reports Ready.
    spec = dict(obj.get("spec") or {})
    taints = list(spec.get("taints") or [])
    if not any(taint.get("key") == _NOT_READY["key"] for taint in taints):
        taints.append(_NOT_READY)
    status = {"daemonEndpoints": {"kubeletEndpoint": {"Port": 0}}, **(obj.get("status") or {})}
    status["nodeInfo"] = {**_NODE_INFO, **(status.get("nodeInfo") or {})}
    return {**obj, "spec": {**spec, "taints": taints}, "status": status}


def _container(container: Object) -> Object:
    image = str(container.get("image", ""))
    tag = image.rpartition("/")[2].partition("@")[0].partition(":")[2]
    moving = "@" not in image and tag in ("", "latest")
    return {
        "resources": {},
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "File",
        "imagePullPolicy": "Always" if moving else "IfNotPresent",
        **container,
    }


def _pod(obj: Object) -> Object:
    spec = obj.get("spec") or {}
    filled: Object = {
        "restartPolicy": "Always",
        "terminationGracePeriodSeconds": 30,
        "dnsPolicy": "ClusterFirst",
        "securityContext": {},
        "schedulerName": "default-scheduler",
        "priority": 0,
        "enableServiceLinks": True,
        "preemptionPolicy": "PreemptLowerPriority",
        **spec,
    }
    for name in ("containers", "initContainers"):
        if isinstance(spec.get(name), list):
            filled[name] = [_container(container) for container in spec[name]]
    tolerations = list(spec.get("tolerations") or [])
    known = {toleration.get("key") for toleration in tolerations}
    filled["tolerations"] = tolerations + [extra for extra in _POD_TOLERATIONS if extra["key"] not in known]
    return {**obj, "spec": filled, "status": {"phase": "Pending", "qosClass": "BestEffort"}}


_OBJECT: Object = {"type": "object", "nullable": True}
_OBJECTS: Object = {"type": "array", "nullable": True, "items": {"type": "object"}}


def _shape(**members: Object) -> Object:
    return {"type": "object", "nullable": True, "properties": members}


def _list_of(shape: Object) -> Object:
    return {"type": "array", "nullable": True, "items": {**shape, "nullable": False}}


_TEXT: Object = {"type": "string", "nullable": True}
_NUMBER: Object = {"type": "integer", "nullable": True}
# Go's MicroTime takes microseconds only: all six digits, or none of the object is read.
_MOMENT: Object = {**_TEXT, "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}(Z|[+-]\d\d:\d\d)$"}
_CONDITIONS = _list_of(_shape(type=_TEXT, status=_TEXT))
_CONTAINERS = _list_of(_shape(name=_TEXT, image=_TEXT))
_NAMES = _shape(plural=_TEXT, singular=_TEXT, kind=_TEXT, listKind=_TEXT, shortNames=_list_of(_TEXT))
_VERSIONS = _list_of(
    _shape(
        name=_TEXT,
        schema=_shape(openAPIV3Schema=_OBJECT),
        subresources=_OBJECT,
        additionalPrinterColumns=_list_of(
            _shape(name=_TEXT, jsonPath=_TEXT, type=_TEXT, priority={"type": "integer", "nullable": True})
        ),
        selectableFields=_list_of(_shape(jsonPath=_TEXT)),
    )
)
_WEBHOOKS = _list_of(_shape(clientConfig=_shape(service=_OBJECT), rules=_OBJECTS))
_TEXTS = _list_of(_TEXT)
_RULE = _shape(
    **dict.fromkeys(("verbs", "apiGroups", "resources", "resourceNames", "nonResourceURLs"), _TEXTS),
)
_REFERENCE = _shape(kind=_TEXT, name=_TEXT, namespace=_TEXT, apiGroup=_TEXT)
_SHAPES: dict[str, Object] = {
    "customresourcedefinitions": _shape(
        spec=_shape(group=_TEXT, scope=_TEXT, names=_NAMES, versions=_VERSIONS, conversion=_OBJECT),
        status=_shape(conditions=_CONDITIONS),
    ),
    "events": _shape(involvedObject=_shape(namespace=_TEXT, name=_TEXT)),
    "leases": _shape(
        spec=_shape(holderIdentity=_TEXT, leaseDurationSeconds=_NUMBER, acquireTime=_MOMENT, renewTime=_MOMENT)
    ),
    "mutatingwebhookconfigurations": _shape(webhooks=_WEBHOOKS),
    "namespaces": _shape(spec=_OBJECT, status=_OBJECT),
    **dict.fromkeys(("roles", "clusterroles"), _shape(rules=_list_of(_RULE))),
    **dict.fromkeys(("rolebindings", "clusterrolebindings"), _shape(subjects=_list_of(_REFERENCE), roleRef=_REFERENCE)),
    "endpointslices": _shape(endpoints=_list_of(_shape(addresses=_TEXTS, conditions=_OBJECT))),
    "nodes": _shape(
        spec=_shape(taints=_list_of(_shape(key=_TEXT, effect=_TEXT))),
        status=_shape(conditions=_CONDITIONS, addresses=_OBJECTS, nodeInfo=_OBJECT, daemonEndpoints=_OBJECT),
    ),
    **dict.fromkeys(
        ("deployments", "statefulsets", "daemonsets"),
        _shape(
            spec=_shape(
                selector=_shape(matchLabels=_OBJECT, matchExpressions=_OBJECTS),
                template=_shape(metadata=_OBJECT, spec=_shape(containers=_CONTAINERS, initContainers=_CONTAINERS)),
            ),
            status=_OBJECT,
        ),
    ),
    "pods": _shape(
        spec=_shape(
            containers=_CONTAINERS, initContainers=_CONTAINERS, tolerations=_list_of(_shape(key=_TEXT, effect=_TEXT))
        ),
        status=_shape(
            conditions=_CONDITIONS,
            containerStatuses=_list_of(_shape(restartCount={"type": "integer", "nullable": True})),
        ),
    ),
}
"""As much of the types of built-in kinds as the rest of the server relies on."""


def type_error(resource: Resource, obj: Object) -> str | None:
    """What a typed decoder would complain of in a built-in object, beyond its metadata."""
    if resource.plural in ("configmaps", "secrets"):
        names = ("data", "binaryData", "stringData")
        return next((error for name in names if (error := map_error(obj, name, resource.kind))), None)
    cause = next(schema.causes(_SHAPES.get(resource.plural, {}), obj), None)
    return f"json: cannot unmarshal into Go struct field {resource.kind}.{cause.field}" if cause else None


_CREATED: dict[str, Callable[[Object], Object]] = {"namespaces": _namespace, "nodes": _node, "pods": _pod}


def created(resource: Resource, obj: Object) -> Object:
    """A new object with what the server adds once, at creation."""
    fill = _CREATED.get(resource.table)
    return fill(obj) if fill else obj


def _secret(obj: Object) -> Object:
    if "stringData" in obj:
        given = {
            key: base64.b64encode((value or "").encode("utf-8", "surrogatepass")).decode()
            for key, value in obj["stringData"].items()
        }
        obj = {**obj, "data": {**obj.get("data", {}), **given}}
        del obj["stringData"]
    return {"type": "Opaque", **obj}


def normalized(resource: Resource, obj: Object) -> Object:
    """An object as the server keeps it: without nulls and empty data, with `stringData` folded in."""
    obj = {name: value for name, value in obj.items() if value is not None}
    for name in ("data", "binaryData"):
        if name in obj and not obj[name]:
            del obj[name]
        elif name in obj and None in obj[name].values():
            obj[name] = {key: value or "" for key, value in obj[name].items()}
    if resource.plural == "mutatingwebhookconfigurations":
        return webhooks.completed(obj)
    return _secret(obj) if resource.table == "secrets" else obj


def _data_causes(obj: Object, old: Object | None) -> Iterator[Cause]:
    size = 0
    for name in ("data", "binaryData"):
        before: Any = (old or {}).get(name, {})
        data: Any = obj.get(name, {})
        if (old or {}).get("immutable") and data != before:
            yield Cause(name, "Forbidden: field is immutable when `immutable` is set", "FieldValueForbidden")
        for key, value in data.items():
            if len(key) > 253:
                yield Cause(f"{name}[{key}]", f'Invalid value: "{key}": must be no more than 253 characters')
            elif key not in before and not _CONFIG_KEY.fullmatch(key):
                yield Cause(f"{name}[{key}]", f'Invalid value: "{key}": {_KEY_RULE}')
            if name == "data" and key in obj.get("binaryData", {}):
                yield Cause(f"data[{key}]", f'Invalid value: "{key}": duplicate of key present in binaryData')
            size += len(value) if value.isascii() else len(value.encode("utf-8", "surrogatepass"))
    if size > _DATA_LIMIT_BYTES:
        yield Cause("[]", f"Too long: may not be more than {_DATA_LIMIT_BYTES} bytes", "FieldValueTooLong")


def _event_causes(obj: Object, _old: Object | None) -> Iterator[Cause]:
    concerned = (obj.get("involvedObject") or {}).get("namespace", "")
    namespace = obj["metadata"]["namespace"]
    # Events about cluster-scoped objects belong into `default`.
    if concerned != namespace and (concerned or namespace != "default"):
        yield Cause("involvedObject.namespace", f'Invalid value: "{concerned}": does not match event.namespace')


def _lease_causes(obj: Object, _old: Object | None) -> Iterator[Cause]:
    seconds = (obj.get("spec") or {}).get("leaseDurationSeconds")
    if seconds is not None and seconds <= 0:
        yield Cause("spec.leaseDurationSeconds", f"Invalid value: {seconds}: must be greater than 0")


_CAUSES: dict[str, Callable[[Object, Object | None], Iterator[Cause]]] = {
    "configmaps": _data_causes,
    "secrets": _data_causes,
    "events": _event_causes,
    "leases": _lease_causes,
}


def causes(resource: Resource, obj: Object, old: Object | None) -> Iterator[Cause]:
    """What is wrong with an object of a built-in kind, beyond its metadata."""
    check = _CAUSES.get(resource.plural)
    if check is not None:
        yield from check(obj, old)
