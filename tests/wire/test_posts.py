"""`web` and `watch` post events, and `watch` writes objects, as recorded in `recordings/`."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.wire.faces import Time, run_watch
from tests.wire.recording import NAMESPACE, Cluster, Sink, check, heard, open_sink, until
from tests.wire.world import (
    CONFIGMAPS,
    DIGEST,
    HOST,
    REVIEWS,
    SECRET,
    SECRETS,
    SHOP,
    TOKEN,
    World,
    frozen,
    open_world,
    pod,
    review,
    source_of,
)

pytestmark = pytest.mark.slow

ROOT: Final = Path(__file__).parents[2]
WEBHOOKS: Final = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations"
LEASES: Final = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases"
OBJECT_KEYS: Final = frozenset({"apiVersion", "kind", "namespace", "name", "deleted", "resourceVersion"})
"""What a change names. An event may say more of an object, and only there may it say more than is recorded."""


def posted(cluster: Cluster, requests: list[Any]) -> list[Any]:
    """Requests of a program without what its HTTP library adds."""
    return [cluster.normal(_plain(request)) for request in requests]


def _plain(request: Any) -> Any:
    headers = {name: text for name, text in request["headers"].items() if name in {"content-type", "authorization"}}
    event = dict(request["json"])
    if event["type"] == "dev.warmhook.objects.changed.v1":
        objects = [{key: named[key] for key in named.keys() & OBJECT_KEYS} for named in event["data"]["objects"]]
        # The id is that of uids and resourceVersions.
        event |= {"id": "<id>", "data": {"objects": objects}}
    return {**request, "headers": headers, "json": event}


# --- web -------------------------------------------------------------------------------------------------------------


def test_pushes_are_published_to_the_sink_as_recorded(tmp_path: Path) -> None:
    async def main() -> dict[str, Any]:
        async with open_sink() as sink:
            overrides = '{"extensions": {"team": "shop"}}'
            environ = {"K_SINK": f"http://user:secret@127.0.0.1:{sink.port}/sink", "K_CE_OVERRIDES": overrides}
            async with open_world(tmp_path, [source_of("webhook")], now=frozen, **environ) as web:
                bodies = {
                    "with a digest": {"image": f"{HOST}/shop/app:v1", "digest": DIGEST},
                    "without a digest": {"image": f"{HOST}/shop/app:v2"},
                }
                found = {name: posted(web.cluster, await _publish(web, sink, body)) for name, body in bodies.items()}
                await until(lambda: _counts(web, 'warmhook_published_total{result="published"} 2.0'))
                return found

    check("published", heard(asyncio.run, main()))


async def _counts(web: World, line: str) -> bool:
    return line in await web.metrics()


async def _publish(web: World, sink: Sink, body: Any) -> list[Any]:
    headers = {"authorization": SECRET, "content_type": "application/json"}
    await web.send("POST", "/webhooks/webhook", json.dumps(body).encode(), **headers)
    return await sink.take(1)


def test_images_that_admission_saw_are_forwarded_as_recorded(tmp_path: Path) -> None:
    async def main() -> dict[str, Any]:
        async with open_sink() as sink:
            found = {}
            address = f"http://127.0.0.1:{sink.port}"
            places = {"events": {"WARMHOOK_EVENTS_URL": f"{address}/events"}, "sink": {"K_SINK": f"{address}/sink"}}
            for name, place in places.items():
                async with open_world(tmp_path, (), now=frozen, WARMHOOK_SERVE="admission,metrics", **place) as web:
                    await _review(web, _detailed_pod())
                    found[f"to the {name}"] = posted(web.cluster, await sink.take(1))
            return found

    check("forwarded", heard(asyncio.run, main()))


async def _review(web: World, body: Any) -> None:
    """As soon as `web` has read the token."""

    async def accepted() -> bool:
        return (await web.client.post(REVIEWS, content=review(body))).status_code == 200

    await until(accepted)


def _detailed_pod() -> Any:
    """With everything that decides where it may run."""
    body = pod(f"{HOST}/shop/app:v1", warm="true")
    term = {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a", "b"]}]}
    body["spec"] |= {
        "initContainers": [{"name": "first", "image": "busybox"}],
        "nodeSelector": {"pool": "web"},
        "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}},
        "imagePullSecrets": [{"name": "pull"}],
    }
    return body


# --- watch -----------------------------------------------------------------------------------------------------------


def test_watch_posts_and_writes_as_recorded(tmp_path: Path) -> None:
    async def main() -> dict[str, Any]:
        (tmp_path / "token").write_text(TOKEN)
        async with open_sink() as sink:
            environ = {
                "WARMHOOK_EVENTS_URL": f"http://127.0.0.1:{sink.port}/events",
                "WARMHOOK_EVENTS_TOKEN_FILE": str(tmp_path / "token"),
            }
            cluster = Cluster(frozen)
            await cluster.set_up()
            await cluster.ask("POST", SECRETS, {"metadata": {"name": "warmhook-tls"}})
            admission = yaml.safe_load((ROOT / "knative/base/admission.yaml").read_text())
            await cluster.ask("POST", WEBHOOKS, admission)
            async with run_watch(environ, cluster.connect("watch"), Time(frozen, speed=5)):
                found = {"01 at the start": posted(cluster, await sink.take(1))}
                await until(lambda: _is_certified(cluster))
                for number, (name, step) in enumerate(_changes(cluster).items(), 2):
                    await step
                    found[f"{number:02} {name}"] = posted(cluster, await sink.take(1))
                await until(lambda: any(write["request"].startswith(f"PUT {LEASES}") for write in cluster.writes))
            objects = [await cluster.objects(path) for path in (LEASES, WEBHOOKS, SECRETS)]
            # A Lease is renewed as long as the test runs.
            writes = {json.dumps(write, sort_keys=True): write for write in cluster.take_writes()}
            return {**found, "objects": objects, "writes": list(writes.values())}

    check("watch", heard(asyncio.run, main()))


async def _is_certified(cluster: Cluster) -> bool:
    data = (await cluster.ask("GET", f"{SECRETS}/warmhook-tls")).get("data") or {}
    return {"tls.crt", "admission-tokens"} <= data.keys()


def _changes(cluster: Cluster) -> dict[str, Any]:
    """What happens in the cluster, each thing after the event of the one before."""
    spec = {"push": [{"repository": f"{HOST}/**"}]}
    report = {
        "metadata": {
            "name": "warmhook-report-a",
            "labels": {"warmhook.dev/kind": "report"},
            "annotations": {
                "warmhook.dev/node": "a",
                "warmhook.dev/warm": "",
                "warmhook.dev/seen": "2026-03-01T12:00:00Z",
            },
        }
    }
    warm = {"metadata": {"annotations": {"warmhook.dev/warm": "5ad95ece"}}}
    return {
        "node joins": cluster.ask("POST", "/api/v1/nodes", {"metadata": {"name": "a"}}),
        "node is labelled": cluster.ask("PATCH", "/api/v1/nodes/a", {"metadata": {"labels": {"pool": "web"}}}),
        "policy created": cluster.add("WarmPolicy", "shop", spec),
        "policy changed": cluster.ask("PATCH", f"{SHOP}/warmpolicies/shop", {"spec": {"preferWarm": True}}),
        "policy deleted": cluster.ask("DELETE", f"{SHOP}/warmpolicies/shop"),
        "WarmImage created": cluster.add("WarmImage", "by-hand", {"image": f"{HOST}/hand/made:1"}),
        "WarmImage changed": cluster.ask("PATCH", f"{SHOP}/warmimages/by-hand", {"spec": {"nodes": {"limit": 1}}}),
        "lines are written": _write_lines(cluster),
        "report comes": cluster.ask("POST", CONFIGMAPS, report),
        "report changes": cluster.ask("PATCH", f"{CONFIGMAPS}/warmhook-report-a", warm),
        "WarmImage deleted": cluster.ask("DELETE", f"{SHOP}/warmimages/by-hand"),
        "node leaves": cluster.ask("DELETE", "/api/v1/nodes/a"),
    }


async def _write_lines(cluster: Cluster) -> None:
    """What `web` wants of the node."""
    node = await cluster.ask("GET", "/api/v1/nodes/a")
    owner = {"apiVersion": "v1", "kind": "Node", "name": "a", "uid": node["metadata"]["uid"]}
    metadata = {
        "name": "warmhook-desired-a",
        "labels": {"warmhook.dev/kind": "desired", "line.warmhook.dev/230da589bdb115f2": "5ad95ece"},
        "annotations": {"warmhook.dev/node": "a"},
        "ownerReferences": [owner],
    }
    line = json.dumps({"i": f"{HOST}/hand/made:1", "w": "shop/by-hand"})
    await cluster.ask("POST", CONFIGMAPS, {"metadata": metadata, "data": {"230da589bdb115f2": line}})


def test_watch_posts_to_the_sink_as_recorded() -> None:
    async def main() -> dict[str, Any]:
        async with open_sink() as sink:
            environ = {
                "K_SINK": f"http://127.0.0.1:{sink.port}/sink",
                "K_CE_OVERRIDES": '{"extensions": {"team": "shop"}}',
            }
            cluster = Cluster(frozen)
            await cluster.set_up()
            async with run_watch(environ, cluster.connect("watch"), Time(frozen, speed=5)):
                found = {"at the start": posted(cluster, await sink.take(1))}
                await cluster.ask("POST", "/api/v1/nodes", {"metadata": {"name": "a"}})
                return {**found, "node joins": posted(cluster, await sink.take(1))}

    check("watch-sink", heard(asyncio.run, main()))
