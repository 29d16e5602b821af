"""Build the path of each kind of object at the API server."""

from __future__ import annotations

from typing import Final
from urllib.parse import quote

from warmhook.api import API_VERSION
from warmhook.warmimages import ObjectKey

_CUSTOM: Final = f"/apis/{API_VERSION}"

NODES: Final = "/api/v1/nodes"
TOKEN_REVIEWS: Final = "/apis/authentication.k8s.io/v1/tokenreviews"  # noqa: S105 - a path
ACCESS_REVIEWS: Final = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
OWN_ACCESS_REVIEWS: Final = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
CRDS: Final = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


def node(name: str) -> str:
    """One Node."""
    return f"{NODES}/{segment(name)}"


def configmaps(namespace: str, name: str = "") -> str:
    """The ConfigMaps of a namespace, or one of them."""
    return _in_namespace("/api/v1", namespace, "configmaps", name)


def events(namespace: str) -> str:
    """The Events of a namespace; those about cluster-scoped objects go into `default`."""
    return _in_namespace("/api/v1", namespace, "events", "")


def leases(namespace: str, name: str = "") -> str:
    """The Leases of a namespace, or one of them."""
    return _in_namespace("/apis/coordination.k8s.io/v1", namespace, "leases", name)


def secrets(namespace: str, name: str = "") -> str:
    """The Secrets of a namespace, or one of them."""
    return _in_namespace("/api/v1", namespace, "secrets", name)


def service_accounts(namespace: str, name: str = "") -> str:
    """The ServiceAccounts of a namespace, or one of them."""
    return _in_namespace("/api/v1", namespace, "serviceaccounts", name)


def pods(namespace: str = "") -> str:
    """The Pods of a namespace, or of the cluster."""
    return _in_namespace("/api/v1", namespace, "pods", "") if namespace else "/api/v1/pods"


def workloads(kind: str, namespace: str = "") -> str:
    """The Deployments, StatefulSets, DaemonSets or CloneSets of the cluster, or of a namespace."""
    prefix = "/apis/apps.kruise.io/v1alpha1" if kind == "CloneSet" else "/apis/apps/v1"
    plural = f"{kind.lower()}s"
    return _in_namespace(prefix, namespace, plural, "") if namespace else f"{prefix}/{plural}"


def mutating_webhooks(name: str) -> str:
    """One MutatingWebhookConfiguration."""
    return f"/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/{segment(name)}"


def warmpolicies(key: ObjectKey | None = None) -> str:
    """All WarmPolicies of the cluster, or one of them."""
    return _custom("warmpolicies", key)


def warmpolicies_in(namespace: str) -> str:
    """The WarmPolicies of a namespace; of the cluster if it is empty."""
    return _in_namespace(_CUSTOM, namespace, "warmpolicies", "") if namespace else warmpolicies()


def warmimages(key: ObjectKey | None = None) -> str:
    """All WarmImages of the cluster, or one of them."""
    return _custom("warmimages", key)


def warmimages_in(namespace: str) -> str:
    """The WarmImages of a namespace, to create one."""
    return _in_namespace(_CUSTOM, namespace, "warmimages", "")


def status(path: str) -> str:
    """The status subresource of the object at `path`."""
    return f"{path}/status"


def _custom(plural: str, key: ObjectKey | None) -> str:
    return f"{_CUSTOM}/{plural}" if key is None else _in_namespace(_CUSTOM, key.namespace, plural, key.name)


def _in_namespace(prefix: str, namespace: str, plural: str, name: str) -> str:
    path = f"{prefix}/namespaces/{segment(namespace)}/{plural}"
    return f"{path}/{segment(name)}" if name else path


def segment(name: str) -> str:
    """A name as one path segment: it may come from outside, so nothing in it may change the path."""
    return quote(name, safe="")
