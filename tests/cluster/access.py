"""The shipped rights, with which the programs run: ServiceAccounts, roles and bound tokens as in a Pod."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml

from tests.cluster.place import Place
from warmhook.ports import Object

__all__ = ["agent_token", "grant", "service_account", "web_token", "write_kubeconfig"]

_RBAC: Final = Path(__file__).parents[2] / "knative" / "base" / "rbac.yaml"
_SHIPPED_NAMESPACES: Final = ("warmhook-system", "warmhook-agents")
_TOKEN_SECONDS: Final = 3600
_COLLECTIONS: Final = {
    "ServiceAccount": "/api/v1/namespaces/{}/serviceaccounts",
    "Role": "/apis/rbac.authorization.k8s.io/v1/namespaces/{}/roles",
    "RoleBinding": "/apis/rbac.authorization.k8s.io/v1/namespaces/{}/rolebindings",
    "ClusterRole": "/apis/rbac.authorization.k8s.io/v1/clusterroles",
    "ClusterRoleBinding": "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
}


def service_account(place: Place, name: str) -> str:
    """What `warmhook-<name>` is called in this place."""
    return f"{place.prefix}-warmhook-{name}"


async def grant(place: Place) -> None:
    """Create the shipped objects, under names of the place's own.

    `web` is one process here, with the receiver in it, so its account has the receiver's role as well.
    """
    for obj in yaml.safe_load_all(_RBAC.read_text()):
        if "subjects" in obj and obj["roleRef"]["name"] == "warmhook-receiver":
            obj["subjects"][0]["name"] = "warmhook-handlers"
        mine = _renamed(obj, place)
        await place.create(_COLLECTIONS[mine["kind"]].format(mine["metadata"].get("namespace")), mine)


def _renamed(value: Any, place: Place) -> Any:
    if isinstance(value, list):
        return [_renamed(item, place) for item in value]
    if not isinstance(value, dict):
        return value
    renamed = {key: _renamed(member, place) for key, member in value.items()}
    if isinstance(renamed.get("name"), str):
        renamed["name"] = f"{place.prefix}-{renamed['name']}"
    if renamed.get("namespace") in _SHIPPED_NAMESPACES:
        renamed["namespace"] = place.namespace
    return renamed


async def web_token(place: Place) -> str:
    """A token of the ServiceAccount of a `web` that does everything."""
    return await _token(place, "handlers", {})


async def agent_token(place: Place, node: str, name: str) -> str:
    """A token of the agents' ServiceAccount, bound to the Pod `name` on the node as a kubelet's projection binds it."""
    pods = f"/api/v1/namespaces/{place.namespace}/pods"
    # No kubelet starts it. It tolerates everything, so that no controller that may be there takes it away.
    spec = {
        "nodeName": node,
        "serviceAccountName": service_account(place, "agent"),
        "automountServiceAccountToken": False,
        "tolerations": [{"operator": "Exists"}],
        "terminationGracePeriodSeconds": 0,
        "containers": [{"name": "agent", "image": "warmhook.invalid/agent:test"}],
    }
    pod = await place.create(pods, {"metadata": {"name": name}, "spec": spec})
    bound = {"apiVersion": "v1", "kind": "Pod", "name": name, "uid": pod["metadata"]["uid"]}
    return await _token(place, "agent", {"boundObjectRef": bound})


async def _token(place: Place, account: str, spec: Object) -> str:
    path = f"/api/v1/namespaces/{place.namespace}/serviceaccounts/{service_account(place, account)}/token"
    request = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {"expirationSeconds": _TOKEN_SECONDS, **spec},
    }
    answer = await place.kubernetes.create(path, request)
    token: str = answer["status"]["token"]
    return token


def write_kubeconfig(path: Path, of: Path, token: str) -> None:
    """Write a kubeconfig for the cluster that `of` names, with nothing but a token."""
    path.write_text(yaml.safe_dump(_kubeconfig(yaml.safe_load(of.read_text()), of.parent, token)))
    path.chmod(0o600)


def _kubeconfig(given: Object, folder: Path, token: str) -> Object:
    (context,) = _named(given["contexts"], given["current-context"])
    (cluster,) = _named(given["clusters"], context["context"]["cluster"])
    content = dict(cluster["cluster"])
    if "certificate-authority" in content:
        content["certificate-authority"] = str(folder / content["certificate-authority"])
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": content}],
        "users": [{"name": "test", "user": {"token": token}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        "current-context": "test",
    }


def _named(entries: list[Object], name: str) -> Iterator[Object]:
    return (entry for entry in entries if entry["name"] == name)
