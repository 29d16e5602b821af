"""Measure how long a Pod's creation waits for `web`, and how long it takes to find the nodes that can run a Pod."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ssl
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from statistics import median
from typing import Final

import aiohttp

from adapters.certificates import make_pair
from adapters.kubernetes.paths import secrets, warmimages_in, warmpolicies
from adapters.kubernetes.webhook_secret import SECRET, token_data
from devcluster.nodes import node_object
from tests.bench.figures import Measured
from tests.bench.place import NotMeasured, Place, another_namespace
from tests.bench.runs import percentile
from tests.bench.sending import HOST, start_web
from tests.real.programs import eventually, free_port
from warmhook.admission_review import read_pod
from warmhook.admission_tokens import path_of
from warmhook.api import API_VERSION
from warmhook.node_affinity import matches_node
from warmhook.placement import Node
from warmhook.ports import Object
from warmhook.taints import Taint, tolerates
from warmhook.warmimages import PolicyKey

__all__ = ["admission", "feasible"]

_PER_SECOND: Final = 200
_DEPLOYMENTS: Final = 100
"""To which the Pods belong: siblings lead to one event."""
_WARM_UP: Final = 200
_READY_SECONDS: Final = 30.0
_TOKEN: Final = "20260101-" + "b" * 48
_NODES: Final = 5000


async def admission(place: Place) -> list[Measured]:
    """200 reviews per second over TLS, while the same process, with watch inside, handles what they lead to.

    The certificate is put there beforehand, and no API server is told to call: its other Pods are none of our business.
    """
    await place.create_nodes(10)
    pair = make_pair(("127.0.0.1",), datetime.now(UTC))
    data = {"tls.crt": pair.certificate, "tls.key": pair.key, "ca.crt": pair.authority, **token_data((_TOKEN,))}
    body = {"metadata": {"name": SECRET}, "type": "Opaque", "data": {k: _base64(v) for k, v in data.items()}}
    await place.kubernetes.create(secrets(place.namespace), body)
    try:
        # Pods beside Warmhook's own are passed over.
        async with another_namespace(place, "pods") as namespace:
            return await _admit(place, namespace, pair.authority.decode())
    finally:
        await place.kubernetes.delete(secrets(place.namespace, SECRET))


async def _admit(place: Place, namespace: str, authority: str) -> list[Measured]:
    spec = {
        "pods": {"selector": {"matchLabels": {"warm": "true"}}},
        "preferWarm": True,
        "template": {"nodes": place.selector},
    }
    policy = {"apiVersion": API_VERSION, "kind": "WarmPolicy", "metadata": {"name": "pods"}, "spec": spec}
    await place.kubernetes.create(warmpolicies(PolicyKey(namespace, "pods")).rpartition("/")[0], policy)
    port = free_port()
    web = await start_web(place, "--watch", environ={"WARMHOOK_TLS_PORT": str(port)})
    taken: list[float] = []
    async with _reviewer(port, authority) as session:
        await eventually(lambda: _serves(session), what="web answers over TLS", seconds=_READY_SECONDS)
        for number in range(_WARM_UP):
            await _review(session, namespace, number, [])
        seconds = 3 if place.quick else 10
        place.say(f"{_PER_SECOND} reviews/s for {seconds} s")
        async with asyncio.TaskGroup() as group:
            began = time.monotonic()
            for number in range(seconds * _PER_SECOND):
                await asyncio.sleep(began + number / _PER_SECOND - time.monotonic())
                group.create_task(_review(session, namespace, _WARM_UP + number, taken), name="review")
    await web.program.stop()
    made = len((await place.kubernetes.list(warmimages_in(namespace), metadata_only=True)).items)
    each = [1000 * percentile(taken[at : at + _PER_SECOND], 99) for at in range(0, len(taken), _PER_SECOND)]
    p50, p99 = (1000 * percentile(taken, rank) for rank in (50, 99))
    shown = f"p50 {p50:.1f} ms, slowest {1000 * max(taken):.1f} ms, of {len(taken)}"
    note = f"{shown}; spread: the p99 of each second; {made} WarmImages made meanwhile"
    return [Measured("admission-p99-ms", p99, each, note)]


@contextlib.asynccontextmanager
async def _reviewer(port: int, authority: str) -> AsyncIterator[aiohttp.ClientSession]:
    """What the API server does: connections that are kept, and one second of patience."""
    connector = aiohttp.TCPConnector(limit=16, ssl=ssl.create_default_context(cadata=authority))
    timeout = aiohttp.ClientTimeout(total=1)
    async with aiohttp.ClientSession(f"https://127.0.0.1:{port}", connector=connector, timeout=timeout) as session:
        yield session


async def _serves(session: aiohttp.ClientSession) -> bool:
    try:
        async with session.get("/healthz") as answer:
            return answer.status == 200
    except (aiohttp.ClientError, TimeoutError):
        return False


async def _review(session: aiohttp.ClientSession, namespace: str, number: int, taken: list[float]) -> None:
    uid = f"review-{number}"
    request = {
        "uid": uid,
        "kind": {"group": "", "version": "v1", "kind": "Pod"},
        "operation": "CREATE",
        "namespace": namespace,
        "object": _pod(namespace, number),
    }
    body = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}
    began = time.monotonic()
    async with session.post(path_of(_TOKEN), json=body, params={"timeout": "1s"}) as answer:
        said = (await answer.json())["response"]
    taken.append(time.monotonic() - began)
    if not said["allowed"] or said["uid"] != uid:
        raise NotMeasured(f"{uid} was answered {said}")


def _pod(namespace: str, number: int) -> Object:
    """One of a Deployment, as the API server shows it: constraints, and the tolerations that every Pod is given."""
    app = f"app-{number % _DEPLOYMENTS}"
    owner = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": f"{app}-5d8f", "uid": app, "controller": True}
    expressions = [{"key": "topology.kubernetes.io/zone", "operator": "In", "values": ["local-a", "local-b"]}]
    required = {"nodeSelectorTerms": [{"matchExpressions": expressions}]}
    passing = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "generateName": f"{app}-5d8f-",
            "namespace": namespace,
            "labels": {"app": app, "pod-template-hash": "5d8f", "warm": "true"},
            "ownerReferences": [owner],
        },
        "spec": {
            "containers": [
                {"name": "app", "image": f"{HOST}/bench/{app}:v1"},
                {"name": "proxy", "image": f"{HOST}/bench/proxy:v1"},
            ],
            "nodeSelector": {"kubernetes.io/os": "linux"},
            "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}},
            "tolerations": [
                {"key": "dedicated", "operator": "Equal", "value": "batch", "effect": "NoSchedule"},
                *({"key": key, "operator": "Exists", "effect": "NoExecute"} for key in passing),
            ],
        },
    }


async def feasible(place: Place) -> list[Measured]:
    """One Pod, read anew each time, against 5,000 nodes in memory, half of which have a taint."""
    nodes = [_node(number) for number in range(1, _NODES + 1)]
    pod = _pod("shop", 0)
    taken: list[float] = []
    found = 0
    for _ in range(place.runs(50, 10)):
        began = time.perf_counter()
        admitted = read_pod(pod, "shop")
        assert admitted is not None
        affinity, tolerations = admitted.constraints.affinity, admitted.constraints.tolerations
        found = sum(
            (affinity is None or matches_node(affinity, node.name, node.labels))
            and tolerates(node.taints, node.unschedulable, tolerations)
            for node in nodes
        )
        taken.append(1000 * (time.perf_counter() - began))
    return [Measured("feasible-5000-ms", median(taken), taken, f"{found} of {len(nodes)} nodes can run the Pod")]


def _node(number: int) -> Node:
    labels = node_object(f"node-{number}", number, runtime="bench://")["metadata"]["labels"]
    taints = (
        (),
        (Taint("dedicated", "batch"),),
        (),
        (Taint("gpu"),),
    )[number % 4]
    return Node(f"node-{number}", "", labels, taints)


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()
