"""A whole installation on an embedded API server, and the cluster of a command on it."""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import datetime, timedelta
from email.utils import format_datetime
from random import Random
from typing import Any, Final

import pytest

from adapters.certificates import Pair, make_pair
from adapters.kubernetes import paths
from adapters.kubernetes.client import Kubernetes
from adapters.kubernetes.warmimage import warmimage_crd
from adapters.kubernetes.warmpolicy import warmpolicy_crd
from cli.cluster import Cluster
from devcluster.apiserver import ApiServer, InProcessTransport
from handlers.reconcile.reader import Reader
from tests.manifests.installation import path_of
from tests.manifests.rendered import BASE, render
from tests.support.instant import instantly, loop_clock
from warmhook import __version__
from warmhook.api import API_VERSION, SEEN_ANNOTATION, VERSION_ANNOTATION
from warmhook.delivery_records import DeliveryRecord, RecentDeliveries
from warmhook.node_report import report_name, report_patch
from warmhook.ports import Object, Response
from warmhook.timestamps import format_time

__all__ = ["HOST", "NAMESPACE", "NOW", "SHOP", "Installed", "installed", "prepared"]

NOW: Final = datetime.fromisoformat("2026-03-01T12:00:00Z")
NAMESPACE: Final = "warmhook-system"
HOST: Final = "harbor.example.com"
SHOP: Final = f"/apis/{API_VERSION}/namespaces/shop"
_PAIR: Final[list[Pair]] = []
"""Made once, as is the installation: many tests begin with it."""
_SNAPSHOT: Final[list[tuple[str, tuple[str, str], Object]]] = []


class Installed:
    """The shipped manifests, programs that run, three nodes with agents, and a policy that works."""

    def __init__(self) -> None:
        self.server = ApiServer(lambda: NOW, Random(0))
        self.date = NOW
        """What the API server says in its answers."""
        self.refused: list[str] = []
        """Parts of paths that the API server refuses to the command."""
        transport = InProcessTransport(self.server, before=self._before, after=self._after)
        self.admin = Kubernetes(InProcessTransport(self.server))
        self.clock = replace(loop_clock(NOW), utcnow=lambda: NOW)
        kubernetes = Kubernetes(transport)
        reader = Reader(kubernetes, NAMESPACE, self.clock)
        given = (kubernetes, reader, transport, self.clock, "http://api", "a kubeconfig")
        self.cluster = Cluster(*given, "shop", NAMESPACE)

    async def _before(self, method: str, path: str) -> Response | None:
        if any(part in path for part in self.refused):
            body = b'{"kind":"Status","status":"Failure","reason":"Forbidden","message":"no","code":403}'
            return Response(403, {"content-type": "application/json"}, body)
        return None

    async def _after(self, method: str, path: str, answer: Response) -> Response:
        return Response(answer.status, {**answer.headers, "date": format_datetime(self.date)}, answer.body)

    async def set_up(self) -> None:
        """Everything is there and in order."""
        if not _SNAPSHOT:
            await self._install()
            for name, table in self.server.store.tables.items():
                _SNAPSHOT.extend((name, key, stored.object) for key, stored in table.items.items())
        self.server.restore(100_000, _SNAPSHOT)

    async def _install(self) -> None:
        for crd in (warmpolicy_crd(), warmimage_crd()):
            await self.admin.create(paths.CRDS, crd)
        for obj in sorted(render(BASE), key=lambda each: each["kind"] != "Namespace"):
            # They are made from their models.
            if obj["kind"] != "CustomResourceDefinition":
                await self.admin.create(path_of(obj).rpartition("/")[0], obj)
        await self.admin.create("/api/v1/namespaces", {"metadata": {"name": "shop"}})
        await self._start_programs()
        await self._certify()
        for number in (1, 2, 3):
            await self.add_node(f"node-{number}")
            await self.report(f"node-{number}")
        await self.add_policy()
        await self.deliver("harbor", "accepted")

    async def _start_programs(self) -> None:
        for name in ("web", "handlers"):
            path = f"{paths.workloads('Deployment', NAMESPACE)}/warmhook-{name}"
            replicas = (await self.admin.get(path))["spec"]["replicas"]
            status = {"observedGeneration": 1, "updatedReplicas": replicas, "availableReplicas": replicas}
            await self.admin.patch(f"{path}/status", {"status": {"replicas": replicas, **status}})
        numbers = ("desired", "current", "updated")
        status = {f"{each}NumberScheduled": 3 for each in numbers} | {"numberAvailable": 3, "observedGeneration": 1}
        path = f"{paths.workloads('DaemonSet', 'warmhook-agents')}/warmhook-agent/status"
        await self.admin.patch(path, {"status": status})
        await self.lead(NOW - timedelta(seconds=3))
        await self.admin.create(
            f"/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices",
            {
                "metadata": {"name": "admission-x", "labels": {"kubernetes.io/service-name": "warmhook-admission"}},
                "addressType": "IPv4",
                "endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": True}}],
            },
        )
        sources = "sources: [{name: harbor, kind: harbor, secret: {env: HARBOR}}]"
        await self.admin.patch(paths.configmaps(NAMESPACE, "warmhook-config"), {"data": {"config.yaml": sources}})

    async def lead(self, renewed: datetime, holder: str = "watch-1") -> None:
        """Somebody renewed the Lease then."""
        spec = {
            "holderIdentity": holder,
            "leaseDurationSeconds": 15,
            "renewTime": renewed.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        }
        path = paths.leases(NAMESPACE)
        await self.admin.delete(f"{path}/warmhook-watch")
        await self.admin.create(path, {"metadata": {"name": "warmhook-watch"}, "spec": spec})

    async def _certify(self) -> None:
        if not _PAIR:
            _PAIR.append(make_pair(["warmhook-admission.warmhook-system.svc"], NOW))
        await self.certify(_PAIR[0], _PAIR[0].authority)

    async def certify(self, pair: Pair, trusted: bytes) -> None:
        """Write a certificate, and the CAs that the API server trusts."""
        data = {"tls.crt": _encoded(pair.certificate), "tls.key": _encoded(pair.key)}
        await self.admin.patch(paths.secrets(NAMESPACE, "warmhook-tls"), {"data": data})
        await self.change_webhook(caBundle=_encoded(trusted))

    async def change_webhook(self, *, policy: str = "Ignore", **client: Any) -> None:
        path = paths.mutating_webhooks("warmhook")
        (hook,) = (await self.admin.get(path))["webhooks"]
        service = {**hook["clientConfig"]["service"], "path": "/admission/pods/20260301-" + "7" * 48}
        merged = {**hook["clientConfig"], "service": service, **client}
        changed = {**hook, "failurePolicy": policy, "clientConfig": {k: v for k, v in merged.items() if v is not None}}
        await self.admin.patch(path, {"webhooks": [changed]})

    async def add_node(self, name: str, **fields: Any) -> None:
        labels = {"kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64", "pool": "web", **fields.pop("labels", {})}
        status = {"capacity": {"ephemeral-storage": "100Gi"}, **fields}
        await self.admin.create(paths.NODES, {"metadata": {"name": name, "labels": labels}, "status": status})

    async def report(self, name: str, *, seen: datetime = NOW, version: str = __version__) -> None:
        """Its agent reports now; or at another time, if it has before."""
        uid = (await self.admin.get(paths.node(name)))["metadata"]["uid"]
        metadata = report_patch(name, uid, seen, {}, {})["metadata"]
        metadata.pop("managedFields")
        metadata["annotations"] |= {VERSION_ANNOTATION: version} if version else {}
        body = {"metadata": {**metadata, "name": report_name(name)}}
        path = paths.configmaps(NAMESPACE)
        await self.admin.delete(f"{path}/{report_name(name)}")
        await self.admin.create(path, body)
        assert body["metadata"]["annotations"][SEEN_ANNOTATION] == format_time(seen)

    async def add_policy(self, name: str = "shop", *, status: Object | None = None, **spec: Any) -> None:
        spec = spec or {"push": [{"repository": f"{HOST}/shop/**"}]}
        obj = {"apiVersion": API_VERSION, "kind": "WarmPolicy", "metadata": {"name": name}, "spec": spec}
        await self.admin.create(f"{SHOP}/warmpolicies", obj)
        await self._set_status(f"{SHOP}/warmpolicies/{name}", status)

    async def add_warmimage(self, name: str, image: str = f"{HOST}/shop/web:v1", **given: Any) -> None:
        status = given.pop("status", None)
        metadata = {"name": name, **given.pop("metadata", {})}
        spec = {"image": image, **given}
        obj = {"apiVersion": API_VERSION, "kind": "WarmImage", "metadata": metadata, "spec": spec}
        await self.admin.create(f"{SHOP}/warmimages", obj)
        await self._set_status(f"{SHOP}/warmimages/{name}", status)

    async def _set_status(self, path: str, status: Object | None) -> None:
        if status is not None:
            await self.admin.patch(f"{path}/status", {"status": status})

    async def deliver(self, source: str, result: str, **given: Any) -> None:
        """Receivers keep this delivery alone."""
        recent = RecentDeliveries()
        recent.add(DeliveryRecord(NOW - timedelta(minutes=5), source, "harbor", result, **given))
        path = paths.configmaps(NAMESPACE, "warmhook-deliveries")
        await self.admin.patch(path, {"data": {"web.8080": recent.encode(NOW)}})


@pytest.fixture(scope="session")
def prepared() -> None:
    """Install once, before the first test of a process."""
    instantly(Installed().set_up())


def installed(test: Callable[[Installed], Awaitable[None]]) -> None:
    """Run a test on an installation that is in order."""

    async def run() -> None:
        here = Installed()
        await here.set_up()
        await test(here)

    instantly(run())


def condition(kind: str, status: str, reason: str, message: str = "") -> Object:
    """A status with one condition."""
    found = {"type": kind, "status": status, "reason": reason, "message": message}
    return {"conditions": [{**found, "lastTransitionTime": format_time(NOW), "observedGeneration": 1}]}


def _encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()
