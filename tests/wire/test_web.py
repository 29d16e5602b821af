"""`web` answers, and writes to the API server, what is recorded in `recordings/`.

`WARMHOOK_TEST_RECORD=1 pytest tests/wire` writes the recordings anew. They show what others rely on, so a difference is
a change of behaviour.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from adapters.registries import adapter_kinds
from tests.adapters.registries.cases import FOLDER, RECEIVED, Case, read_cases
from tests.wire.faces import Response, Unreachable, instantly
from tests.wire.recording import NAMESPACE, answer_of, check, heard, is_recorded, metric_shape
from tests.wire.world import (
    CONFIGMAPS,
    DIGEST,
    HOST,
    REVIEWS,
    SECRET,
    SHOP,
    STRUCTURED,
    TOKEN,
    WARMIMAGES,
    World,
    changed,
    event,
    jumping,
    open_world,
    pod,
    review,
    source_of,
)

LINE: Final = "line.warmhook.dev/"
LONG: Final = "n" * 250

# --- webhooks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [kind for kind in adapter_kinds() if is_recorded(f"webhooks/{kind}")])
def test_deliveries_of_every_sender_are_answered_as_recorded(kind: str, tmp_path: Path) -> None:
    found = read_cases(FOLDER / f"{kind}.toml")
    cases = [case for case in found if not case.absent and case.secret and not case.early_blobs]
    check(f"webhooks/{kind}", heard(instantly, _deliver_all(kind, cases, tmp_path)))


async def _deliver_all(kind: str, cases: Sequence[Case], folder: Path) -> Any:
    hosts = {reference.partition("/")[0] for case in cases for reference in case.expect if "/" in reference}
    allowed = sorted({*hosts, *(case.registry_host for case in cases)} - {""})
    sources = [
        {
            "name": f"{kind}-{number}",
            "kind": kind,
            "allowedHosts": allowed,
            "registryHost": case.registry_host,
            "options": dict(case.options),
            **_proof(case, f"SECRET_{number}"),
        }
        for number, case in enumerate(cases)
    ]
    environ = {
        f"SECRET_{number}_{place}": secret
        for number, case in enumerate(cases)
        for place, secret in enumerate(_secrets(case))
    }
    async with open_world(folder, sources, now=jumping(RECEIVED), **environ) as web:
        await web.cluster.add("WarmPolicy", "all", {"push": [{"repository": "**"}]})
        return {case.name: await _deliver(web, f"{kind}-{number}", case) for number, case in enumerate(cases)}


def _proof(case: Case, variable: str) -> dict[str, Any]:
    """What makes a source believe a delivery; anything, if the case is about something else."""
    if "audience" in case.options:
        return {"keys": {"file": "/dev/null"}}
    if case.verified is None:
        return {"insecure": True}
    return {"secret": [{"env": f"{variable}_{place}"} for place, _ in enumerate(_secrets(case))]}


def _secrets(case: Case) -> list[str]:
    return [case.secret] if isinstance(case.secret, str) else case.secret


async def _deliver(web: World, source: str, case: Case) -> Any:
    """The answer; of the case `push` all that is written as well, of others the images."""
    path = httpx.URL(f"/webhooks/{source}", params=dict(case.query) or None)
    headers = [(name.encode(), text.encode("latin-1")) for name, text in case.headers.items()]
    answer = await web.client.post(path, content=case.body.encode(), headers=headers)
    counted = [line for line in await web.metrics() if f'source="{source}"' in line]
    writes, found = web.cluster.take_writes(), {"answer": answer_of(answer), "counted": counted}
    if case.name == "push":
        found |= {"writes": writes, "stored": await web.cluster.objects(WARMIMAGES)}
    elif writes:
        specs = [write["body"]["spec"] for write in writes]
        found["written"] = sorted(" ".join(filter(None, (spec["image"], spec.get("digest")))) for spec in specs)
    for obj in await web.cluster.objects(WARMIMAGES):
        await web.cluster.ask("DELETE", f"{SHOP}/warmimages/{obj['metadata']['name']}")
    # A list that pushes share is not older than this.
    await asyncio.sleep(1)
    return found


def test_bad_deliveries_are_answered_as_recorded(tmp_path: Path) -> None:
    async def main() -> dict[str, Any]:
        sources = [
            source_of("webhook", allowedOrigins=["Events.Example.com"]),
            source_of("cloudevents", allowedOrigins=["*"]),
        ]
        async with open_world(tmp_path, sources) as web:
            found: dict[str, Any] = {}
            await web.cluster.add("WarmPolicy", "all", {"push": [{"repository": "**"}]})
            push = json.dumps({"image": f"{HOST}/shop/app:v1", "digest": DIGEST}).encode()
            good = {"content_type": "application/json", "authorization": SECRET}
            hook = "/webhooks/webhook"
            found |= {
                "good": await web.send("POST", hook, push, **good),
                "repeated": await web.send("POST", hook, push, **good),
                "wrong secret": await web.send("POST", hook, push, content_type="application/json", authorization="x"),
                "no secret": await web.send("POST", hook, push, content_type="application/json"),
                "secret in the query": await web.send("POST", f"{hook}?token={SECRET}", push),
                "plus sign in the query": await web.send("POST", f"{hook}?token=a+b", push),
                "unknown source": await web.send("POST", "/webhooks/nobody", push, **good),
                "slash at the end": await web.send("POST", f"{hook}/", push, **good),
                "other method": await web.send("GET", hook, **good),
                "other host": await web.send("POST", hook, push.replace(HOST.encode(), b"ghcr.io"), **good),
                "no JSON": await web.send("POST", hook, b"{", **good),
                "empty": await web.send("POST", hook, b"", **good),
                "too large": await web.send("POST", hook, b" " * (5 << 20), **good),
                "too large and not signed": await web.send("POST", hook, b" " * (5 << 20)),
                "other media type": await web.send("POST", hook, push, **{**good, "content_type": "text/plain"}),
                "gzip that is none": await web.send("POST", hook, push, **good, content_encoding="gzip"),
                "encoding nobody knows": await web.send("POST", hook, push, **good, content_encoding="zstd"),
                "number of 5,000 digits": await web.send("POST", hook, b'{"image": %s}' % (b"9" * 5000), **good),
            }
            for origin in ("events.example.com", "evil.example.com", ""):
                asked = {"webhook_request_origin": origin, "webhook_request_rate": "120"} if origin else {}
                found[f"handshake of {origin or 'nobody'}"] = await web.send("OPTIONS", hook, **asked)
            anybody = {"webhook_request_origin": "any.example.com", "webhook_request_callback": "http://x/y"}
            found["handshake of anybody"] = await web.send("OPTIONS", "/webhooks/cloudevents", **anybody)
            found["handshake of an unknown source"] = await web.send("OPTIONS", "/webhooks/nobody", **anybody)
            other = push.replace(b"v1", b"v2")
            for fault in (Response(503, {"retry-after": "1"}, b"{}"), Response(403, {}, b"{}"), Unreachable("refused")):
                web.cluster.fault = fault
                name = fault.status if isinstance(fault, Response) else "unreachable"
                found[f"API server {name}"] = await web.send("POST", hook, other, **good)
            web.cluster.fault = None
            found["API server back"] = await web.send("POST", hook, other, **good)
            found["stored"] = await web.cluster.objects(WARMIMAGES)
            return found

    check("bad-deliveries", heard(instantly, main()))


# --- events, probes, dead letters ------------------------------------------------------------------------------------


def test_events_are_answered_as_recorded(tmp_path: Path) -> None:
    async def main() -> dict[str, Any]:
        async with open_world(tmp_path) as web:
            sync, bearer = event("sync"), {"authorization": f"Bearer {TOKEN}"}
            binary = {"ce_specversion": "1.0", "ce_id": "1", "ce_source": "/t", "ce_type": "dev.warmhook.sync.v1"}
            batch = {"content_type": "application/cloudevents-batch+json", **bearer}
            kind = STRUCTURED["content_type"]
            many = b'{"specversion": "1.0", "id": %s, "source": "/t", "type": "dev.warmhook.sync.v1"}' % (b"9" * 5000)
            bad = {
                "kind unknown": [changed("Pod", "x")],
                "no list": "x",
                "no name": [{"kind": "Node"}],
                "one bad among good": [changed("Node", "a"), {"kind": "Other"}],
            }
            found = {
                "structured": await web.send("POST", "/events", sync, **STRUCTURED),
                "binary": await web.send("POST", "/events", b"", **bearer, **binary),
                "binary with data": await web.send(
                    "POST", "/events", b"{}", **bearer, **binary, content_type="application/json"
                ),
                "batch": await web.send("POST", "/events", b"[" + sync + b"]", **batch),
                "empty batch": await web.send("POST", "/events", b"[]", **batch),
                "no token": await web.send("POST", "/events", sync, content_type=kind),
                "bad token": await web.send("POST", "/events", sync, content_type=kind, authorization="Bearer x"),
                "other scheme": await web.send("POST", "/events", sync, content_type=kind, authorization=TOKEN),
                "no event": await web.send("POST", "/events", b"{}", **STRUCTURED),
                "no JSON": await web.send("POST", "/events", b"{", **STRUCTURED),
                "no content type": await web.send("POST", "/events", sync, **bearer),
                "other content type": await web.send("POST", "/events", sync, **bearer, content_type="text/plain"),
                "other version": await web.send("POST", "/events", sync.replace(b"1.0", b"2.0"), **STRUCTURED),
                "unknown type": await web.event("nobody"),
                "number of 5,000 digits": await web.send("POST", "/events", many, **STRUCTURED),
                "data of 5,000 digits": await web.send(
                    "POST", "/events", sync.replace(b"{}", b"9" * 5000), **STRUCTURED
                ),
                "deep": await web.send("POST", "/events", b'{"data":' + b"[" * 100_000, **STRUCTURED),
                "too large": await web.send("POST", "/events", b" " * (5 << 20), **STRUCTURED),
                "other method": await web.send("GET", "/events", **bearer),
                "pushed by nobody": await web.event("image.pushed", image=f"{HOST}/a:1", source="x"),
                "admitted nothing": await web.event("pod.admitted", namespace="shop", images=[]),
                "reported nothing": await web.event("report.changed", warmimages=[]),
                "reported a name that is none": await web.event("report.changed", warmimages=["x"]),
            }
            for name, objects in bad.items():
                found[f"changed: {name}"] = await web.event("objects.changed", objects=objects)
            ping = event("sync").replace(b"dev.warmhook.sync.v1", b"dev.knative.sources.ping")
            found["ping"] = await web.send("POST", "/events", ping, **STRUCTURED)
            (tmp_path / "token").unlink()
            found["token file is gone"] = await web.send("POST", "/events", sync, **STRUCTURED)
            (tmp_path / "token").write_text(TOKEN)
            web.cluster.fault = Response(503, {"retry-after": "7"}, b"{}")
            found["API server 503"] = await web.send("POST", "/events", sync, **STRUCTURED)
            return found

    check("events", heard(instantly, main()))


def test_probes_metrics_and_dead_letters_are_answered_as_recorded(tmp_path: Path) -> None:
    async def main() -> dict[str, Any]:
        async with open_world(tmp_path, WARMHOOK_SERVE="metrics,dead-letters") as web:
            letter = {
                "ce_specversion": "1.0",
                "ce_id": "1",
                "ce_type": "dev.warmhook.sync.v1",
                "ce_knativeerrorcode": "503",
            }
            return {
                "live": await web.send("GET", "/healthz"),
                "ready": await web.send("GET", "/readyz"),
                "head": await web.send("HEAD", "/healthz"),
                "nothing": await web.send("GET", "/"),
                "dead letter": await web.send("POST", "/dead-letters", b"{}", **letter),
                "dead letter of nobody": await web.send("POST", "/dead-letters", b"", ce_type="x"),
                "dead letter too large": await web.send("POST", "/dead-letters", b" " * (5 << 20)),
                "events are not served": await web.event("sync"),
                "webhooks are not served": await web.send("POST", "/webhooks/x"),
                "reviews are not served": await web.send("POST", REVIEWS),
                "metrics": metric_shape((await web.client.get("/metrics")).text),
                "metrics type": (await web.client.get("/metrics")).headers["content-type"],
            }

    check("probes", heard(instantly, main()))


# --- reviews ---------------------------------------------------------------------------------------------------------


def test_reviews_are_answered_as_recorded(tmp_path: Path) -> None:
    async def main() -> dict[str, Any]:
        async with open_world(tmp_path) as web:
            app = pod("nginx:1")
            await asyncio.sleep(1)
            body = review(app)
            return {
                "good": await web.review(app),
                "unknown token": await web.send("POST", f"/admission/pods/20260301-{'8' * 48}", body),
                "no token": await web.send("POST", "/admission/pods", body),
                "empty token": await web.send("POST", "/admission/pods/", body),
                "other method": await web.send("GET", REVIEWS),
                "garbage": await web.send("POST", REVIEWS, b"{"),
                "empty": await web.send("POST", REVIEWS),
                "a list": await web.send("POST", REVIEWS, b"[]"),
                "too large": await web.send("POST", REVIEWS, b" " * (5 << 20)),
                "number of 5,000 digits": await web.send("POST", REVIEWS, b"9" * 5000),
                "update": await web.review(app, operation="UPDATE"),
                "dry run": await web.review(app, dryRun=True),
                "own namespace": await web.review(app, namespace=NAMESPACE),
                "another kind": await web.review({"kind": "Service"}),
                "no object": await web.review(None),
                "images that are none": await web.review(pod("A B")),
                "metrics": [line for line in await web.metrics() if line.startswith("warmhook_admissions_total")],
            }

    check("reviews", heard(instantly, main()))


# --- what web writes -------------------------------------------------------------------------------------------------


def test_writes_are_as_recorded(tmp_path: Path) -> None:
    async def main() -> dict[str, Any]:
        async with open_world(tmp_path, [source_of("webhook")]) as web:
            return {f"{number:02} {name}": found async for number, name, found in _numbered(_story(web))}

    check("writes", heard(instantly, main()))


async def _numbered(steps: AsyncIterator[tuple[str, Any]]) -> AsyncIterator[tuple[int, str, Any]]:
    number = 0
    async for name, found in steps:
        number += 1
        yield number, name, found


async def _story(web: World) -> AsyncIterator[tuple[str, Any]]:
    """What happens in a cluster, one thing after another, and what `web` does about each."""
    cluster = web.cluster
    for name in ("a", "b", "c"):
        await cluster.add_node(name)
    template = {"nodes": {"limit": 2}, "pull": {"policy": "Always"}, "lifetime": {"expireAfterSeconds": 6000}}
    spec = {
        "images": [f"{HOST}/base/os:1"],
        "push": [{"repository": f"{HOST}/shop/**", "keep": 2, "tags": ["v*"]}],
        "preferWarm": True,
        "pods": {"selector": {"matchLabels": {"warm": "true"}}},
        "template": template,
    }
    await cluster.add("WarmPolicy", "shop", spec)
    yield "policy created", await web.event("objects.changed", objects=[changed("WarmPolicy", "shop")])
    yield "its WarmImages seen", await _seen(web)
    for tag in ("v1", "v2", "v3"):
        await asyncio.sleep(10)
        yield f"push of {tag}", await _push(web, tag)
        yield f"{tag} seen", await _seen(web)
    await asyncio.sleep(10)
    pushed = {"image": f"{HOST}/shop/app:v4", "digest": DIGEST, "source": "webhook"}
    yield "push by event", await web.event("image.pushed", **pushed)
    yield "v4 seen", await _seen(web)
    await cluster.add_node("d", unschedulable=True)
    yield "node joins", await web.event("objects.changed", objects=[changed("Node", "d")])
    await cluster.add_node(LONG)
    cluster.names[LONG] = "<long name>"
    yield "node with a long name joins", await web.event("objects.changed", objects=[changed("Node", LONG)])
    yield "objects before reports", await _objects(web)
    for obj in await cluster.objects(CONFIGMAPS):
        await _report(web, obj)
    names = [f"shop/{obj['metadata']['name']}" for obj in await cluster.objects(WARMIMAGES)]
    yield "reports come", await web.event("report.changed", warmimages=names)
    await asyncio.sleep(5)
    yield "sync", await web.event("sync")
    yield "Pod reviewed", await web.review(pod(f"{HOST}/base/os:1"))
    await asyncio.sleep(2)
    yield "Pod of the selector reviewed", await web.review(pod(f"{HOST}/shop/tool:v1", warm="true"))
    await asyncio.sleep(2)
    yield "and handled", {"writes": cluster.take_writes()}
    admitted = {"namespace": "shop", "owner": "Deployment/x", "images": [f"{HOST}/shop/other:v1"]}
    yield "Pod admitted by event", await web.event("pod.admitted", **admitted, labels={"warm": "true"})
    yield "their WarmImages seen", await _seen(web)
    await cluster.ask(
        "PATCH", f"{SHOP}/warmpolicies/shop", {"spec": {"images": None, "template": {"nodes": {"limit": 1}}}}
    )
    yield "policy changed", await web.event("objects.changed", objects=[changed("WarmPolicy", "shop")])
    yield "its changes seen", await _seen(web)
    await cluster.add("WarmImage", "by-hand", {"image": f"{HOST}/hand/made:1"})
    yield "WarmImage by hand", await _seen(web)
    await cluster.ask("DELETE", f"{SHOP}/warmimages/by-hand")
    gone = changed("WarmImage", "by-hand", deleted=True)
    yield "WarmImage deleted", await web.event("objects.changed", objects=[gone])
    await cluster.ask("DELETE", "/api/v1/nodes/b")
    yield "node leaves", await web.event("objects.changed", objects=[changed("Node", "b")])
    yield "objects with a policy", await _objects(web)
    await cluster.ask("DELETE", f"{SHOP}/warmpolicies/shop")
    yield "policy deleted", await web.event("objects.changed", objects=[changed("WarmPolicy", "shop", deleted=True)])
    for when in ("at once", "ten minutes later", "two hours later"):
        await asyncio.sleep({"at once": 1, "ten minutes later": 600}.get(when, 7200))
        yield f"sync {when}", await web.event("sync")
    yield "objects at the end", await _objects(web)
    yield "metrics", metric_shape("\n".join(await web.metrics()))


async def _report(web: World, desired: Any) -> None:
    """The agent of a node says that the last line failed and the others are warm."""
    node = desired["metadata"]["annotations"]["warmhook.dev/node"]
    versions = {key: text for key, text in desired["metadata"]["labels"].items() if key.startswith(LINE)}
    *warm, last = sorted(versions)
    body = {
        "metadata": {
            "name": f"warmhook-report-{node}",
            "labels": {"warmhook.dev/kind": "report", last: f"failed-{versions[last]}"},
            "annotations": {
                "warmhook.dev/node": node,
                "warmhook.dev/seen": f"{web.cluster.now():%Y-%m-%dT%H:%M:%SZ}",
                "warmhook.dev/warm": ",".join(versions[key] for key in warm),
            },
        },
        "data": {last.removeprefix(LINE): '{"attempts":4,"message":"gone","reason":"NotFound"}'},
    }
    await web.cluster.ask("POST", CONFIGMAPS, body)


async def _push(web: World, tag: str) -> Any:
    body = json.dumps({"image": f"{HOST}/shop/app:{tag}", "digest": DIGEST}).encode()
    return await web.send("POST", "/webhooks/webhook", body, authorization=SECRET, content_type="application/json")


async def _seen(web: World) -> Any:
    """`watch` names every WarmImage that there is."""
    objects = [changed("WarmImage", obj["metadata"]["name"]) for obj in await web.cluster.objects(WARMIMAGES)]
    return await web.event("objects.changed", objects=objects)


async def _objects(web: World) -> Any:
    policies = await web.cluster.objects(f"{SHOP}/warmpolicies")
    events = await web.cluster.objects("/api/v1/events")
    return [*policies, *await web.cluster.objects(WARMIMAGES), *await web.cluster.objects(CONFIGMAPS), *events]
