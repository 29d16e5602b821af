"""Every AdmissionReview is answered at once, and its images are warmed where more such Pods can land."""

from __future__ import annotations

import asyncio
import base64
import json
import os
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette

from adapters.clock import Clock
from adapters.cloudevents import STRUCTURED, write_event
from adapters.kubernetes import paths
from adapters.kubernetes.webhook_secret import SECRET
from handlers.admission.endpoint import Admission
from handlers.admission.queue import QUEUE_MAX, AdmissionQueue
from handlers.admission.warm_nodes import WarmNodes
from handlers.event_sink import RetryLater
from handlers.metrics import Metrics
from tests.handlers.world import ADMISSION, ADMISSION_TOKEN, NAMESPACE, POLICIES, START, World, in_world
from tests.warmhook.test_admission_review import bent_reviews, owned, review
from warmhook.admission_review import Admitted, read_review
from warmhook.admission_tokens import print_tokens
from warmhook.events import Event, admitted_event
from warmhook.images import parse_reference
from warmhook.node_report import LineReport
from warmhook.ports import Object, Unreachable
from warmhook.timestamps import parse_time

RECORDED = Path(os.environ.get("WARMHOOK_TEST_APISERVER") or "absent") / "admission-requests.json"
WARM = {"labels": {"warm": "true"}}
TEMPLATE = {"lifetime": {"expireAfterSeconds": 6000}}
TAINT = {"key": "gpu", "value": "", "effect": "NoSchedule"}


async def ask(world: World, body: Any, client: httpx.AsyncClient | None = None) -> Object:
    """The `response` to a review."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = await (client or world.client).post(ADMISSION, content=content)
    assert answer.status_code == 200
    read = answer.json()
    assert (read["kind"], read["response"]["allowed"]) == ("AdmissionReview", True)
    response: Object = read["response"]
    return response


def running(app: Starlette) -> AbstractAsyncContextManager[Any]:
    """The background tasks of the application run."""
    return app.router.lifespan_context(app)


async def add_ready_nodes(world: World, *names: str) -> None:
    for name in names:
        await add_node(world, name)


async def post(world: World, pod: object, moment: datetime | None = None) -> None:
    """An event about a Pod that was admitted."""
    assert isinstance(pod, Admitted)
    body = write_event(admitted_event(pod, moment or world.now()))
    answer = await world.client.post("/events", content=body, headers={"content-type": STRUCTURED})
    assert answer.status_code == 204


async def add_node(world: World, name: str, *taints: Object, unschedulable: bool = False, **labels: str) -> None:
    """Ready at once: the taint that every Node begins with is taken away."""
    await world.add_nodes(name, **labels)
    spec = {"taints": list(taints) or None, "unschedulable": unschedulable or None}
    await world.admin.patch(paths.node(name), {"spec": spec})


def pods_policy(**more: Any) -> dict[str, Any]:
    return {"pods": {"selector": {"matchLabels": {"warm": "true"}}}, "template": TEMPLATE, **more}


# --- answering -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body", [b"", b"{", b"\xff", b"[" * 100_000, b'"x"', b"7", b'{"request": {}}', b"x" * (5 << 20)]
)
@in_world()
async def test_a_body_that_is_no_review_is_allowed_under_no_uid(world: World, body: bytes) -> None:
    assert await ask(world, body) == {"uid": "", "allowed": True}
    assert world.metric("warmhook_admissions_total", result="skipped", reason="malformed") == 1


def nobody(_events: Sequence[Event]) -> Awaitable[None]:
    raise AssertionError


CLOCK = Clock(lambda: START, lambda: 0.0, asyncio.sleep, lambda: 0.0)
ALONE = Admission(
    AdmissionQueue(nobody, CLOCK), WarmNodes(CLOCK), Metrics(), NAMESPACE, accept=lambda _token: True, clock=CLOCK
)


@settings(max_examples=100, deadline=None)
@given(bent_reviews())
def test_a_review_of_any_shape_is_allowed(body: Any) -> None:
    allowed(json.dumps(body).encode())


@settings(max_examples=100)
@given(st.binary(max_size=200))
def test_any_bytes_are_allowed(body: bytes) -> None:
    allowed(body)


@pytest.mark.nightly
@settings(max_examples=20_000, deadline=None)
@given(bent_reviews())
def test_reviews_of_very_many_shapes_are_allowed(body: Any) -> None:
    allowed(json.dumps(body).encode())


def allowed(body: bytes) -> None:
    assert json.loads(ALONE.answer(body))["response"]["allowed"] is True
    assert b'result="failed"' not in ALONE.metrics.exposition()


@pytest.mark.slow
@in_world()
async def test_reviews_are_answered_while_the_api_server_is_down(world: World) -> None:
    world.answer(Unreachable("nobody is there"))
    async with running(world.app):
        for number in range(200):
            assert (await ask(world, review(metadata={"name": f"p{number}"})))["allowed"]
        await asyncio.sleep(3600)
        assert world.metric("warmhook_hints_total", result="failed") == 200
        world.faults.clear()
        await world.add_policy(**pods_policy())
        await ask(world, review(metadata={"name": "p1", **WARM}))
        await asyncio.sleep(60)
    assert len(await world.warmimages()) == 1


@pytest.mark.slow
@in_world()
async def test_reviews_are_answered_while_the_queue_is_full(world: World) -> None:
    for number in range(QUEUE_MAX + 50):
        await ask(world, review(metadata={"name": f"p{number}"}))
    assert world.metric("warmhook_admissions_total", result="queued") == QUEUE_MAX
    assert world.metric("warmhook_admissions_total", result="dropped") == 50


@in_world()
async def test_no_request_is_made_on_the_path(world: World) -> None:
    await ask(world, review(metadata=WARM))
    assert world.requests == []


@pytest.mark.skipif(not RECORDED.exists(), reason="WARMHOOK_TEST_APISERVER names no folder with recorded requests")
@in_world()
async def test_reviews_of_a_real_api_server_are_answered(world: World) -> None:
    for entry in json.loads(RECORDED.read_text()):
        assert (await ask(world, entry["body"]))["uid"] == entry["body"]["request"]["uid"]


WRONG_PATHS = [
    "/admission/pods",
    "/admission/pods/",
    ADMISSION[:-1],
    f"{ADMISSION}0",
    f"{ADMISSION}/",
    f"{ADMISSION}/x",
]


@pytest.mark.parametrize("path", [*WRONG_PATHS, ADMISSION.replace("7", "8"), "/admission/pods/\xe4\U0001f600"])
@pytest.mark.parametrize("scheme", ["http", "https"])
@in_world()
async def test_without_the_token_nothing_is_there_and_nothing_is_read_wherever_the_caller_is(
    world: World, path: str, scheme: str
) -> None:
    await add_ready_nodes(world, *"ab")
    await world.add_policy(**pods_policy(images=["nginx:1"], preferWarm=True))
    read = []

    async def body() -> AsyncIterator[bytes]:
        read.append(True)
        yield json.dumps(review(metadata=WARM)).encode()

    async with world.watching(), running(world.app):
        await asyncio.sleep(10)
        await warm_on(world, "a")
        for host in ("127.0.0.1", "10.0.0.7"):
            caller = world.new_client(world.app, host)
            caller.base_url = httpx.URL(f"{scheme}://web")
            answer = await caller.post(path, content=body())
            unknown = await caller.post("/nowhere")
            assert (answer.status_code, answer.content) == (unknown.status_code, unknown.content)
            assert answer.status_code == 404
        await asyncio.sleep(60)
        assert read == []
        assert [one["spec"]["image"] for one in (await world.warmimages()).values()] == ["docker.io/library/nginx:1"]
        assert world.metric("warmhook_admissions_total") == world.metric("warmhook_admissions_total", result="refused")
        # With the token the same review leads to both.
        assert names_in(await ask(world, review(metadata=WARM), caller)) == ["a"]


@in_world()
async def test_the_tokens_are_those_of_the_secret_and_go_with_it(world: World) -> None:
    path = paths.secrets(NAMESPACE, SECRET)

    async def status(token: str) -> int:
        return (await world.client.post(f"/admission/pods/{token}", content=b"{}")).status_code

    async def put(*tokens: str) -> None:
        encoded = base64.b64encode(print_tokens(tokens)).decode()
        await world.admin.patch(path, {"data": {"admission-tokens": encoded}})
        await world.credentials.look()

    other = "20260501-" + "8" * 48
    assert (await status(ADMISSION_TOKEN), await status(other)) == (200, 404)
    await put(other, ADMISSION_TOKEN)
    assert (await status(ADMISSION_TOKEN), await status(other)) == (200, 200)
    await put(other)
    assert (await status(ADMISSION_TOKEN), await status(other)) == (404, 200)
    await put("")
    assert (await status(other), await status("")) == (404, 404)
    await put(other)
    await world.admin.delete(path)
    await world.credentials.look()
    assert await status(other) == 404


# --- becoming warm ---------------------------------------------------------------------------------------------------


@in_world()
async def test_a_pods_images_are_warmed_where_further_ones_can_land(world: World) -> None:
    await add_node(world, "a", pool="web")
    await add_node(world, "b", TAINT, pool="web")
    await add_node(world, "c", pool="web", unschedulable=True)
    await add_node(world, "d", pool="db")
    await add_node(world, "e", {**TAINT, "key": "other"}, pool="web")
    await add_node(world, "v", pool="web", type="virtual-kubelet")
    await world.add_policy(**pods_policy())
    async with world.watching(), running(world.app):
        spec = {
            "containers": [{"image": "ghcr.io/shop/app:v1"}],
            "initContainers": [{"image": "ghcr.io/shop/init:v1"}],
            "nodeSelector": {"pool": "web"},
            "tolerations": [{"key": "gpu", "operator": "Exists"}],
        }
        await ask(world, review(spec, metadata=WARM))
        await asyncio.sleep(10)
        both = ["ghcr.io/shop/app:v1", "ghcr.io/shop/init:v1"]
        assert await world.lines() == {"a": both, "b": both}

        # A node that is no longer cordoned, or whose taint goes, takes such Pods as well.
        await world.admin.patch(paths.node("c"), {"spec": {"unschedulable": None}})
        await world.admin.patch(paths.node("e"), {"spec": {"taints": None}})
        await asyncio.sleep(10)
        assert set(await world.lines()) == {"a", "b", "c", "e"}
        await world.admin.patch(paths.node("a"), {"spec": {"taints": [{"key": "mine", "effect": "NoExecute"}]}})
        await asyncio.sleep(10)
        assert (await world.lines())["a"] == []


@in_world()
async def test_only_pods_of_the_policys_namespace_count(world: World) -> None:
    await world.add_policy(**pods_policy())
    async with running(world.app):
        await ask(world, review(metadata=WARM, namespace="elsewhere"))
        await ask(world, review(metadata={"labels": {"warm": "false"}}))
        await asyncio.sleep(10)
    assert await world.warmimages() == {}


@in_world()
async def test_a_crowd_of_one_owner_costs_one_write_and_a_refresh_when_a_tenth_of_its_lifetime_has_passed(
    world: World,
) -> None:
    await world.add_policy(**pods_policy())
    async with running(world.app):
        await asyncio.sleep(5)
        world.requests.clear()
        for _ in range(300):
            await ask(world, review(metadata={**owned("ReplicaSet", "web-1"), **WARM}))
            await asyncio.sleep(1)
        assert world.writes() == [("POST", "/apis/warmhook.dev/v1alpha1/namespaces/shop/warmimages")]
        assert world.metric("warmhook_admissions_total", result="folded") > 250
        await asyncio.sleep(400)
        await ask(world, review(metadata={**owned("ReplicaSet", "web-1"), **WARM}))
        await asyncio.sleep(10)
        assert [method for method, _ in world.writes()] == ["PATCH"]
        (found,) = (await world.warmimages()).values()
        assert parse_time(found["spec"]["pushedAt"]) > START
        assert found["metadata"]["labels"]["warmhook.dev/owner"]


@pytest.mark.slow
@in_world()
async def test_a_warmimage_ends_if_no_such_pod_came_for_its_lifetime(world: World) -> None:
    await world.add_policy(**pods_policy())
    async with world.watching(), running(world.app):
        await ask(world, review(metadata=WARM))
        await asyncio.sleep(5000)
        assert len(await world.warmimages()) == 1
        await ask(world, review(metadata=WARM))
        await asyncio.sleep(5000)
        assert len(await world.warmimages()) == 1
        await asyncio.sleep(2000)
        assert await world.warmimages() == {}


@in_world()
async def test_owners_with_other_constraints_do_not_fight_over_one_object(world: World) -> None:
    await add_node(world, "a", pool="web")
    await add_node(world, "b", pool="db")
    await world.add_policy(**pods_policy())

    async def ask_of_both() -> None:
        for pool in ("web", "db"):
            spec = {"containers": [{"image": "ghcr.io/x/app:v1"}], "nodeSelector": {"pool": pool}}
            await ask(world, review(spec, metadata={**owned("StatefulSet", pool), **WARM}))

    async with world.watching(), running(world.app):
        for _ in range(5):
            await ask_of_both()
            await asyncio.sleep(60)
        world.requests.clear()
        await ask_of_both()
        await asyncio.sleep(60)
        assert world.writes() == []
        assert await world.lines() == {"a": ["ghcr.io/x/app:v1"], "b": ["ghcr.io/x/app:v1"]}
        assert len((await world.admin.list(paths.warmimages())).items) == 2


@in_world()
async def test_a_policy_that_no_longer_speaks_of_pods_drops_what_they_led_to_and_keeps_its_own(world: World) -> None:
    await world.add_policy(**pods_policy(images=["ghcr.io/shop/own:v1"]))
    async with world.watching(), running(world.app):
        await ask(world, review(metadata=WARM))
        await asyncio.sleep(10)
        assert set(await world.warmimages()) == {"docker.io/library/nginx:1", "ghcr.io/shop/own:v1"}
        await world.admin.patch(f"{POLICIES}/shop", {"spec": {"pods": None}})
        await asyncio.sleep(10)
        assert set(await world.warmimages()) == {"ghcr.io/shop/own:v1"}


@in_world()
async def test_a_changed_limit_reaches_what_pods_asked_for(world: World) -> None:
    for name in "abcd":
        await add_node(world, name, TAINT)
    await add_node(world, "free")
    await world.add_policy(**pods_policy())
    async with world.watching(), running(world.app):
        spec = {"containers": [{"image": "nginx:1"}], "tolerations": [{"key": "gpu", "operator": "Exists"}]}
        await ask(world, review(spec, metadata=WARM))
        await asyncio.sleep(10)
        assert len(await world.lines()) == 5
        await world.admin.patch(f"{POLICIES}/shop", {"spec": {"template": {"nodes": {"limit": 2}}}})
        await asyncio.sleep(10)
        assert sum(map(bool, (await world.lines()).values())) == 2


@in_world()
async def test_the_status_counts_the_nodes_that_can_take_such_pods(world: World) -> None:
    await add_ready_nodes(world, *"abc")
    await add_node(world, "d", TAINT)
    await world.add_policy(**pods_policy())
    async with world.watching(), running(world.app):
        await ask(world, review(metadata=WARM))
        await asyncio.sleep(10)
        await warm_on(world, "a", "b")
        (found,) = (await world.warmimages()).values()
        assert (found["status"]["warm"], found["status"]["desired"]) == (2, 3)
        await world.admin.patch(paths.node("c"), {"spec": {"unschedulable": True}})
        await asyncio.sleep(310)
        (found,) = (await world.warmimages()).values()
        assert (found["status"]["warm"], found["status"]["desired"]) == (2, 2)


@in_world()
async def test_an_event_that_is_posted_leads_to_the_same(world: World) -> None:
    await world.add_policy(**pods_policy())
    await post(world, read_review(review(metadata=WARM), NAMESPACE).outcome)
    assert set(await world.warmimages()) == {"docker.io/library/nginx:1"}
    assert (await world.event("dev.warmhook.pod.admitted.v1", {"namespace": 7})).status_code == 400


@in_world()
async def test_two_versions_of_rollouts_stay_and_an_image_that_a_second_owner_needs(world: World) -> None:
    await add_node(world, "a")
    await world.add_policy(**pods_policy())
    async with world.watching():
        for owner, version in [("api", 0), *(("web", number) for number in range(4))]:
            image = parse_reference(f"ghcr.io/shop/app:v{version}")
            labels = dict(WARM["labels"])
            await post(world, Admitted("shop", f"Deployment/{owner}", (image,), (("app", image),), labels=labels))
            await asyncio.sleep(5)
    assert await world.lines() == {"a": [f"ghcr.io/shop/app:v{version}" for version in (0, 2, 3)]}


@in_world()
async def test_an_event_about_pods_that_are_long_gone_asks_for_nothing(world: World) -> None:
    await world.add_policy(**pods_policy())
    await post(world, read_review(review(metadata=WARM), NAMESPACE).outcome, START - timedelta(days=1))
    assert await world.warmimages() == {}


@pytest.mark.parametrize(("serve", "posted"), [({"admission"}, 1), ({"admission", "events"}, 0)])
@in_world()
async def test_a_process_without_handlers_posts_what_it_sees(world: World, serve: set[str], posted: int) -> None:
    posts: list[Event] = []

    async def post(event: Event) -> None:
        if not posts:
            posts.append(event)
            raise RetryLater("503")
        posts.append(event)

    settings = replace(world.settings, serve=frozenset(serve))
    assert settings.posts_events == bool(posted)
    app = world.new_app(settings, post)
    await world.add_policy(**pods_policy())
    async with running(app):
        await ask(world, review(metadata=WARM), world.new_client(app))
        await asyncio.sleep(10)
    # The first attempt is repeated.
    assert [event.type for event in posts] == ["dev.warmhook.pod.admitted.v1"] * 2 * posted
    assert world.metric("warmhook_hints_total", result="handled") == 1
    assert len(await world.warmimages()) == 1 - posted


# --- preferring ------------------------------------------------------------------------------------------------------


def names_in(response: Object) -> list[str]:
    """The nodes that the patch names."""
    if "patch" not in response:
        return []
    assert response["patchType"] == "JSONPatch"
    steps = json.loads(base64.b64decode(response["patch"]))
    text = json.dumps(steps)
    assert "required" not in text
    return [name for name in ("a", "b", "c", "d") if f'["{name}"]' in text]


async def warm_on(world: World, *names: str) -> None:
    """The agents of these nodes say that every line is warm; those of others that none is."""
    for one in await world.cluster.desired():
        states = {key: LineReport(version, "warm") for key, version in one.lines.items()} if one.node in names else {}
        await world.report(one.node, states)
    await asyncio.sleep(5)


@in_world()
async def test_a_pod_prefers_warm_nodes_that_can_take_it(world: World) -> None:
    await add_ready_nodes(world, *"abc")
    await add_node(world, "d", pool="other")
    await world.add_policy(**pods_policy(images=["nginx:1"], preferWarm=True))
    async with world.watching(), running(world.app):
        await asyncio.sleep(10)
        await warm_on(world, "a", "b")
        assert names_in(await ask(world, review(metadata=WARM))) == ["a", "b"]
        world.requests.clear()
        assert names_in(await ask(world, review(metadata=WARM, dryRun=True))) == ["a", "b"]
        assert world.requests == []
        only = {"containers": [{"image": "nginx:1"}], "nodeSelector": {"pool": "other"}}
        assert names_in(await ask(world, review(only, metadata=WARM))) == []
        await world.admin.patch(paths.node("a"), {"spec": {"unschedulable": True}})
        await asyncio.sleep(5)
        assert names_in(await ask(world, review(metadata=WARM))) == ["b"]
        assert names_in(await ask(world, review(metadata={**WARM, "annotations": {PREFER: "false"}}))) == []
        assert world.metric("warmhook_admissions_total", patched="yes") == 3


@in_world()
async def test_a_pod_prefers_no_node_because_of_an_image_that_is_being_purged(world: World) -> None:
    await add_ready_nodes(world, *"ab")
    await world.add_policy(**pods_policy(images=["nginx:1"], preferWarm=True))
    async with world.watching(), running(world.app):
        await asyncio.sleep(10)
        await world.admin.patch(f"{POLICIES}/shop", {"metadata": {"annotations": {"warmhook.dev/purge": "true"}}})
        await asyncio.sleep(5)
        await warm_on(world, "a")
        assert names_in(await ask(world, review(metadata=WARM))) == []


PREFER = "warmhook.dev/prefer-warm"


@in_world()
async def test_by_default_no_pod_is_changed_and_one_may_ask_by_its_annotation(world: World) -> None:
    await add_ready_nodes(world, *"ab")
    await world.add_policy(**pods_policy(images=["nginx:1"]))
    async with world.watching(), running(world.app):
        await asyncio.sleep(10)
        await warm_on(world, "a")
        assert names_in(await ask(world, review(metadata=WARM))) == []
        response = await ask(world, review(metadata={"annotations": {PREFER: "true"}}))
        assert names_in(response) == ["a"]
        # The second time round the Pod carries our terms already.
        patch = json.loads(base64.b64decode(response["patch"]))
        spec = {"containers": [{"image": "nginx:1"}], "affinity": patch[0]["value"]}
        assert names_in(await ask(world, review(spec, metadata={"annotations": {PREFER: "true"}}))) == []


@in_world()
async def test_nothing_is_preferred_before_everything_is_known_nor_by_the_word_of_a_silent_agent(world: World) -> None:
    await add_ready_nodes(world, *"ab")
    await world.add_policy(**pods_policy(images=["nginx:1"], preferWarm=True))
    async with world.watching():
        await asyncio.sleep(10)
        await warm_on(world, "a")
        assert names_in(await ask(world, review(metadata=WARM))) == []
        async with running(world.app):
            await asyncio.sleep(5)
            assert names_in(await ask(world, review(metadata=WARM))) == ["a"]
            await asyncio.sleep(700)
            assert names_in(await ask(world, review(metadata=WARM))) == []
