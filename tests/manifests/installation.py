"""`base` on a real cluster beside others: installed under names of its own, and removed object by object."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest

from adapters.kubernetes.client import Kubernetes
from adapters.kubernetes.errors import Conflict, NotFound, Refused
from adapters.kubernetes.transport import open_transport
from tests.cluster.access import write_kubeconfig
from tests.manifests.rendered import BASE, render
from tests.support.cases import as_test
from warmhook.ports import Object, Response, Transport

__all__ = ["Installation", "installed"]

_CLUSTER_SCOPED: Final = frozenset(
    {
        "Namespace",
        "CustomResourceDefinition",
        "ClusterRole",
        "ClusterRoleBinding",
        "MutatingWebhookConfiguration",
        "ValidatingAdmissionPolicy",
        "ValidatingAdmissionPolicyBinding",
        "FlowSchema",
        "PriorityLevelConfiguration",
    }
)
# The definitions are shared by all tests on this cluster. And nobody answers a webhook here: for as long as it were
# stored, every Pod of every other test would wait a second for it. A quota that no controller counts refuses Pods.
_ONLY_TRIED: Final = frozenset({"CustomResourceDefinition", "MutatingWebhookConfiguration", "ResourceQuota"})


@dataclass(slots=True)
class Installation:
    """The objects of `base`, renamed."""

    kubeconfig: Path
    transport: Transport
    folder: Path
    prefix: str = field(default_factory=lambda: f"whm-{secrets.token_hex(3)}")
    made: list[str] = field(default_factory=list)
    """Paths of what was stored."""

    @property
    def kubernetes(self) -> Kubernetes:
        """With the rights of the kubeconfig."""
        return Kubernetes(self.transport)

    @property
    def system(self) -> str:
        """What `warmhook-system` is called."""
        return f"{self.prefix}-system"

    @property
    def agents(self) -> str:
        """What `warmhook-agents` is called."""
        return f"{self.prefix}-agents"

    def objects(self, shipped: list[Object] | None = None) -> list[Object]:
        """Namespaces, then what may be in them: of `shipped`, or of `base`."""
        text = json.dumps(render(BASE) if shipped is None else shipped).replace("warmhook-system", self.system)
        renamed = [self._renamed(obj) for obj in json.loads(text.replace("warmhook-agents", self.agents))]
        return sorted(renamed, key=lambda obj: obj["kind"] != "Namespace")

    def _renamed(self, obj: Object) -> Object:
        metadata = obj["metadata"]
        if obj["kind"] not in _ONLY_TRIED and (obj["kind"] in _CLUSTER_SCOPED or metadata["namespace"] == "default"):
            metadata["name"] = self.named(metadata["name"])
        role = obj.get("roleRef", {})
        if role.get("kind") == "ClusterRole" or metadata.get("namespace") == "default":
            role.update({"name": self.named(role["name"])} if role else {})
        spec = obj.get("spec") or {}
        if "policyName" in spec:
            spec["policyName"] = self.named(spec["policyName"])
        if "priorityLevelConfiguration" in spec:
            level = spec["priorityLevelConfiguration"]
            level["name"] = self.named(level["name"])
        return obj

    def named(self, name: str) -> str:
        """The name here of something that all namespaces share."""
        return name if name.startswith(self.prefix) else f"{self.prefix}-{name}"

    async def apply(self, obj: Object) -> Object:
        """Apply it server-side, strictly; what is only tried is not stored."""
        path = path_of(obj)
        query = {"fieldManager": "warmhook-test", "fieldValidation": "Strict", "force": "true"}
        if obj["kind"] in _ONLY_TRIED:
            query["dryRun"] = "All"
        answer = await self.send("PATCH", path, query, "application/apply-patch+yaml", obj)
        assert answer.status in (200, 201), answer.body.decode()
        if answer.status == 201 and obj["kind"] not in _ONLY_TRIED:
            self.made.append(path)
        applied: Object = json.loads(answer.body)
        return applied

    async def send(self, method: str, path: str, query: dict[str, str], content_type: str, body: Any) -> Response:
        """One request, whatever comes of it."""
        return await self.transport.request(
            method, path, query=query, headers={"content-type": content_type}, body=body
        )

    async def create(self, collection: str, body: Object) -> Object:
        """Create something that is removed in the end."""
        made = await self.kubernetes.create(collection, body)
        self.made.append(f"{collection}/{made['metadata']['name']}")
        return made

    @contextlib.asynccontextmanager
    async def as_account(self, name: str, *, pod: Object | None = None) -> AsyncIterator[Kubernetes]:
        """A client with the token of a ServiceAccount, bound to a Pod where one is given."""
        namespace = self.agents if name == "warmhook-agent" else self.system
        spec: Object = {"expirationSeconds": 3600}
        if pod is not None:
            reference = {"apiVersion": "v1", "kind": "Pod", "name": pod["metadata"]["name"]}
            spec["boundObjectRef"] = {**reference, "uid": pod["metadata"]["uid"]}
        request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"
        token = (await self.kubernetes.create(path, request))["status"]["token"]
        file = self.folder / f"{name}-{secrets.token_hex(3)}"
        write_kubeconfig(file, self.kubeconfig, token)
        async with open_transport(str(file)) as transport:
            yield Kubernetes(transport)

    async def clear(self) -> None:
        """Remove everything again, newest first."""
        for path in reversed(self.made):
            with contextlib.suppress(NotFound):
                await self.kubernetes.delete(path)
        for namespace in (self.system, self.agents):
            # No controller empties namespaces here.
            path = f"/api/v1/namespaces/{namespace}"
            with contextlib.suppress(NotFound, Conflict, Refused):
                await self._empty(namespace)
                found = await self.kubernetes.get(path)
                await self.kubernetes.replace(f"{path}/finalize", {**found, "spec": {"finalizers": []}})

    async def _empty(self, namespace: str) -> None:
        for kind in ("configmaps", "pods"):
            collection = f"/api/v1/namespaces/{namespace}/{kind}"
            for obj in (await self.kubernetes.list(collection, metadata_only=True)).items:
                await self.kubernetes.delete(f"{collection}/{obj['metadata']['name']}")


def path_of(obj: Object) -> str:
    """Where the API server keeps the object."""
    version, kind, metadata = obj["apiVersion"], obj["kind"], obj["metadata"]
    prefix = f"/api/{version}" if "/" not in version else f"/apis/{version}"
    within = "" if kind in _CLUSTER_SCOPED else f"/namespaces/{metadata['namespace']}"
    plural = (
        f"{kind.lower()[:-1]}ies"
        if kind.endswith("Policy")
        else f"{kind.lower()}{'es' if kind.endswith('ss') else 's'}"
    )
    return f"{prefix}{within}/{plural}/{metadata['name']}"


def installed(case: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Make a test on the cluster of `WARMHOOK_TEST_KUBECONFIG`, with everything of `base` applied."""
    return as_test(case, _run)


def _run(case: Callable[[Installation], Awaitable[None]]) -> None:
    kubeconfig = os.environ.get("WARMHOOK_TEST_KUBECONFIG", "")
    if not kubeconfig:
        pytest.skip("WARMHOOK_TEST_KUBECONFIG names no cluster")

    async def run() -> None:
        with tempfile.TemporaryDirectory(prefix="wh", dir="/tmp") as folder:
            async with open_transport(kubeconfig) as transport:
                installation = Installation(Path(kubeconfig), transport, Path(folder))
                try:
                    for obj in installation.objects():
                        await installation.apply(obj)
                    await case(installation)
                finally:
                    await installation.clear()

    asyncio.run(run())
