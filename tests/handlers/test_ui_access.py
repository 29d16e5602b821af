"""Who may read the page, and what of it."""

from __future__ import annotations

import asyncio
import html
import json

import pytest

from handlers.ui.access import NAMESPACES_MAX
from tests.handlers.readers import SEES_DELIVERIES, SEES_NODES, SEES_WARMIMAGES, browser, deliveries, grant, page, token
from tests.handlers.world import HOST, World, in_world, logged
from warmhook.delivery_records import DeliveryRecord, RecentDeliveries
from warmhook.inventory import ImageFacts
from warmhook.ports import Response, Unreachable
from warmhook.warmimages import ObjectKey

PATHS = ("/ui/", "/ui/failing", "/ui/deliveries", "/ui/images/shop/web", "/ui/nodes/a", "/ui/changes")
DOWN = Unreachable("refused")


async def two_tenants(world: World) -> None:
    """Namespaces `shop` and `bank`, each with an image on node a that fails, and a delivery of both."""
    await world.add_namespace("bank")
    await world.add_nodes("a", pool="gold")
    await world.add_warmimage("web", f"{HOST}/shop/web:v1")
    await world.add_warmimage("vault", f"{HOST}/bank/vault:v1", namespace="bank")
    await world.sync()
    recent = RecentDeliveries()
    images = (f"{HOST}/bank/vault:v1",)
    recent.add(DeliveryRecord(world.now(), "harbor", "harbor", "accepted", images=images))
    await deliveries(world, one=recent.encode(world.now()))


@in_world()
async def test_without_a_token_every_page_is_the_form_for_one(world: World) -> None:
    await two_tenants(world)
    async with page(world) as opened, browser(opened) as client:
        for path in PATHS:
            answer = await client.get(path)
            assert answer.status_code == 401
            assert 'name="token"' in answer.text
            assert "vault" not in answer.text


@in_world()
async def test_all_wrong_tokens_get_the_same_answer_and_none_is_repeated(world: World) -> None:
    await two_tenants(world)
    valid = await token(world, "ada")
    wrong = ("", "x", "a b", "ü", valid[:-3] + "abc", "y" * 5000, "z" * 20000)
    async with page(world) as opened, browser(opened) as client:
        answers = [await client.post("/ui/sign-in", data={"token": text}) for text in wrong]
        assert {(answer.status_code, answer.text) for answer in answers} == {(401, answers[0].text)}
        assert "y" * 50 not in answers[0].text
        assert not client.cookies


@in_world()
async def test_a_token_becomes_a_cookie_that_no_script_and_no_other_site_gets(world: World) -> None:
    await two_tenants(world)
    await grant(world, "ada", SEES_WARMIMAGES)
    async with page(world) as opened, browser(opened) as client:
        answer = await client.post("/ui/sign-in", data={"token": f" {await token(world, 'ada')}\n"})
        assert (answer.status_code, answer.headers["location"]) == (303, "/ui/")
        cookie = answer.headers["set-cookie"].lower()
        assert all(part in cookie for part in ("httponly", "samesite=strict", "path=/ui"))
        assert "secure" not in cookie
        assert "vault" in (await client.get("/ui/")).text
        assert (await client.post("/ui/sign-out")).status_code == 303
        assert (await client.get("/ui/")).status_code == 401


@in_world()
async def test_behind_tls_the_cookie_is_sent_over_tls_only(world: World) -> None:
    async with page(world) as opened, browser(opened, x_forwarded_proto="https") as client:
        answer = await client.post("/ui/sign-in", data={"token": await token(world, "ada")})
        assert "secure" in answer.headers["set-cookie"].lower()


@in_world()
async def test_a_token_that_no_browser_would_keep_is_refused_with_what_to_do(world: World) -> None:
    review = b'{"status": {"authenticated": true, "user": {"username": "ada"}}}'
    world.answer(Response(201, {}, review), "POST", "tokenreviews")
    async with page(world) as opened, browser(opened) as client:
        answer = await client.post("/ui/sign-in", data={"token": "t" * 4000})
        assert answer.status_code == 400
        assert "kubectl create token" in answer.text


@pytest.mark.parametrize(
    "headers",
    [
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
        {"origin": "https://evil.example"},
        {"origin": "null"},
    ],
    ids=["cross-site", "same-site", "origin", "null"],
)
@in_world()
async def test_the_form_of_another_site_signs_nobody_in(world: World, headers: dict[str, str]) -> None:
    async with page(world) as opened, browser(opened, **headers) as client:
        answer = await client.post("/ui/sign-in", data={"token": await token(world, "ada")})
        assert answer.status_code == 403
        assert "set-cookie" not in answer.headers
        assert "set-cookie" not in (await client.post("/ui/sign-out")).headers


@in_world()
async def test_a_program_reads_with_the_token_in_a_header(world: World) -> None:
    await two_tenants(world)
    await grant(world, "ada", SEES_WARMIMAGES)
    async with page(world) as opened, browser(opened, authorization=f"Bearer {await token(world, 'ada')}") as client:
        assert "vault" in (await client.get("/ui/")).text


@in_world()
async def test_a_password_for_a_proxy_on_the_way_does_not_hide_the_cookie(world: World) -> None:
    async with page(world) as opened, browser(opened, authorization="Basic b3BzOm9wcw==") as client:
        await client.post("/ui/sign-in", data={"token": await token(world, "ada")})
        assert (await client.get("/ui/")).status_code == 200


@in_world()
async def test_a_form_of_another_host_of_the_same_site_signs_nobody_out(world: World) -> None:
    async with page(world) as opened, browser(opened) as client:
        await client.post("/ui/sign-in", data={"token": await token(world, "ada")})
        await client.post("/ui/sign-out", headers={"sec-fetch-site": "same-site"})
        assert (await client.get("/ui/")).status_code == 200


@in_world()
async def test_a_tenant_sees_nothing_of_the_images_of_others(world: World) -> None:
    await two_tenants(world)
    await grant(world, "ada", SEES_WARMIMAGES, "shop")
    await grant(world, "ada", SEES_NODES)
    async with page(world) as opened, browser(opened, authorization=f"Bearer {await token(world, 'ada')}") as client:
        for path in ("/ui/", "/ui/?by=node", "/ui/?namespace=bank", "/ui/?q=vault", "/ui/failing", "/ui/nodes/a"):
            answer = await client.get(path)
            assert answer.status_code == 200, path
            assert "bank" not in answer.text.replace("namespace=bank", "").replace("'namespace': 'bank'", ""), path
            assert f"{HOST}/bank" not in answer.text, path
        assert "shop/web" in (await client.get("/ui/nodes/a")).text
        assert (await client.get("/ui/images/shop/web")).status_code == 200
        foreign, absent = await client.get("/ui/images/bank/vault"), await client.get("/ui/images/bank/none")
        assert (foreign.status_code, foreign.text) == (404, absent.text)
        assert (await client.get("/ui/deliveries")).status_code == 403


@in_world()
async def test_without_the_right_to_list_nodes_no_page_names_one_or_its_pool(world: World) -> None:
    await two_tenants(world)
    await grant(world, "ada", SEES_WARMIMAGES)
    headers = {"authorization": f"Bearer {await token(world, 'ada')}"}
    async with page(world) as opened, browser(opened, **headers) as client:
        for path in ("/ui/", "/ui/?by=node", "/ui/?by=zone", "/ui/failing", "/ui/images/shop/web"):
            assert "gold" not in (await client.get(path)).text
        node, none = await client.get("/ui/nodes/a"), await client.get("/ui/nodes/none")
        assert (node.status_code, node.text) == (403, none.text)


@in_world()
async def test_deliveries_are_for_those_who_may_read_their_configmap(world: World) -> None:
    await two_tenants(world)
    await grant(world, "ada", SEES_DELIVERIES, "warmhook-system")
    async with page(world) as opened, browser(opened, authorization=f"Bearer {await token(world, 'ada')}") as client:
        assert "vault" in (await client.get("/ui/deliveries")).text
        assert "vault" not in (await client.get("/ui/")).text


@in_world()
async def test_a_right_that_was_withdrawn_ends_within_half_a_minute(world: World) -> None:
    await two_tenants(world)
    binding = await grant(world, "ada", SEES_WARMIMAGES)
    async with page(world) as opened, browser(opened, authorization=f"Bearer {await token(world, 'ada')}") as client:
        assert "vault" in (await client.get("/ui/")).text
        await world.admin.delete(binding)
        await asyncio.sleep(31)
        assert "vault" not in (await client.get("/ui/")).text


@in_world()
async def test_a_token_that_expired_is_as_good_as_none(world: World) -> None:
    await two_tenants(world)
    await grant(world, "ada", SEES_WARMIMAGES)
    async with (
        page(world) as opened,
        browser(opened, authorization=f"Bearer {await token(world, 'ada', 600)}") as client,
    ):
        await asyncio.sleep(560)
        assert (await client.get("/ui/")).status_code == 200
        await asyncio.sleep(60)
        assert (await client.get("/ui/")).status_code == 401


@in_world()
async def test_reviews_of_readers_are_shared_for_half_a_minute(world: World) -> None:
    await two_tenants(world)
    await grant(world, "ada", SEES_WARMIMAGES, "shop")
    async with page(world) as opened, browser(opened, authorization=f"Bearer {await token(world, 'ada')}") as client:
        world.asked()
        for _ in range(50):
            assert (await client.get("/ui/")).status_code == 200
        asked = world.asked()
        assert sum(count for (method, _path), count in asked.items() if method == "POST") == 6


@in_world()
async def test_a_flood_of_wrong_tokens_costs_few_reviews_and_keeps_no_reader_out(world: World) -> None:
    await two_tenants(world)
    await grant(world, "ada", SEES_WARMIMAGES)
    async with page(world) as opened, browser(opened) as client:
        ada = {"authorization": f"Bearer {await token(world, 'ada')}"}
        assert (await client.get("/ui/", headers=ada)).status_code == 200
        world.asked()
        statuses = set()
        for number in range(60):
            answer = await client.post("/ui/sign-in", data={"token": f"wrong-{number}"})
            statuses.add(answer.status_code)
        assert statuses == {401, 503}
        assert sum(world.asked().values()) <= 40
        await asyncio.sleep(31)
        for number in range(60):
            await client.post("/ui/sign-in", data={"token": f"more-{number}"})
        assert (await client.get("/ui/", headers=ada)).status_code == 200


@in_world()
async def test_while_the_api_server_is_down_pages_say_how_old_they_are_to_readers_that_are_known(world: World) -> None:
    await two_tenants(world)
    await grant(world, "ada", SEES_WARMIMAGES)
    async with page(world) as opened, browser(opened) as client:
        ada = {"authorization": f"Bearer {await token(world, 'ada')}"}
        other = {"authorization": f"Bearer {await token(world, 'bob')}"}
        assert (await client.get("/ui/", headers=ada)).status_code == 200
        world.answer(DOWN)
        # The watches end after 290 seconds.
        await asyncio.sleep(295)
        answer = await client.get("/ui/", headers=ada)
        assert answer.status_code == 200
        assert "vault" in answer.text
        assert 1 <= opened.cache.staleness.seconds <= 10
        assert (await client.get("/ui/", headers=other)).status_code == 503
        await asyncio.sleep(310)
        assert (await client.get("/ui/", headers=ada)).status_code == 503


@in_world()
async def test_more_namespaces_than_are_asked_about_are_seen_one_by_one(world: World) -> None:
    last = f"team-{NAMESPACES_MAX + 4:03}"
    await world.add_namespace(last)
    await grant(world, "ada", SEES_WARMIMAGES, last)
    async with page(world) as opened, browser(opened, authorization=f"Bearer {await token(world, 'ada')}") as client:
        for number in range(NAMESPACES_MAX + 5):
            key = ObjectKey(f"team-{number:03}", "web")
            opened.cache.inventory.set_image(ImageFacts(key, f"{HOST}/{key}:v1"))
        assert f"{HOST}/{last}" not in (await client.get("/ui/")).text
        assert f"{HOST}/{last}" in (await client.get(f"/ui/?namespace={last}")).text
        assert (await client.get(f"/ui/images/{last}/web")).status_code == 200


@in_world()
async def test_no_token_is_in_a_log_line(world: World) -> None:
    secret = await token(world, "ada")
    world.answer(Response(500, {}, f'{{"message": "cannot review {secret}"}}'.encode()), "POST", "tokenreviews")
    async with page(world) as opened, browser(opened) as client:
        answer = await client.post("/ui/sign-in", data={"token": secret})
        assert answer.status_code == 503
        await client.get("/ui/", headers={"authorization": f"Bearer {secret}"})
    # One line however many ask while it lasts.
    assert len(logged("ui-not-reviewed")) == 1
    assert secret not in repr(logged()) + answer.text


@in_world()
async def test_every_page_has_the_headers_that_keep_others_out(world: World) -> None:
    await two_tenants(world)
    async with page(world, access="loopback") as opened, browser(opened) as client:
        for path in ("/ui/", "/ui/failing", "/ui/deliveries", "/ui/images/shop/web", "/ui/nodes/a", "/ui/nodes/none"):
            headers = (await client.get(path)).headers
            assert headers["content-security-policy"].startswith("default-src 'none'")
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["cross-origin-opener-policy"] == headers["cross-origin-resource-policy"] == "same-origin"
            assert headers["referrer-policy"] == "no-referrer"
            assert headers["cache-control"] == "no-store"


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example:8081", "10.0.0.5"])
@in_world()
async def test_a_name_that_somebody_pointed_at_this_machine_gets_no_page_on_loopback(world: World, host: str) -> None:
    await two_tenants(world)
    async with page(world, access="loopback") as opened, browser(opened, host) as client:
        for path in PATHS:
            answer = await client.get(path)
            assert answer.status_code == 421
            assert "vault" not in answer.text


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
@pytest.mark.parametrize(("mode", "destination"), [("no-cors", "image"), ("cors", "empty"), ("navigate", "iframe")])
@in_world()
async def test_another_site_embeds_and_measures_nothing_of_the_page(
    world: World, site: str, mode: str, destination: str
) -> None:
    await two_tenants(world)
    async with page(world, access="loopback") as opened:
        fetched = {"sec_fetch_site": site, "sec_fetch_mode": mode, "sec_fetch_dest": destination}
        async with browser(opened, **fetched) as client:
            answers = [await client.get(path) for path in (*PATHS, "/ui/?q=vault", "/ui/?q=none")]
        assert len({(answer.status_code, answer.content) for answer in answers}) == 1
        assert answers[0].status_code == 403
        async with browser(opened, sec_fetch_site=site, sec_fetch_mode="navigate", sec_fetch_dest="document") as client:
            assert "vault" in (await client.get("/ui/")).text


@pytest.mark.parametrize(("characters", "status"), [(1024, 200), (1025, 401)], ids=["longest", "longer"])
@in_world()
async def test_a_long_name_of_a_user_is_not_cut_to_that_of_another(world: World, characters: int, status: int) -> None:
    review = {"status": {"authenticated": True, "user": {"username": "a" * characters}}}
    world.answer(Response(201, {}, json.dumps(review).encode()), "POST", "tokenreviews")
    async with page(world) as opened, browser(opened, authorization="Bearer t") as client:
        assert (await client.get("/ui/")).status_code == status


@in_world()
async def test_the_command_that_grants_rights_names_any_user_as_one_word(world: World) -> None:
    review = {"status": {"authenticated": True, "user": {"username": "ada;rm $(x)"}}}
    world.answer(Response(201, {}, json.dumps(review).encode()), "POST", "tokenreviews")
    async with page(world) as opened, browser(opened, authorization="Bearer t") as client:
        assert "'--user=ada;rm $(x)'" in html.unescape((await client.get("/ui/")).text)


@pytest.mark.parametrize("host", ["localhost:9000", "127.0.0.1", "[::1]:8081"])
@in_world()
async def test_on_loopback_everything_is_shown_without_a_token(world: World, host: str) -> None:
    await two_tenants(world)
    async with page(world, access="loopback") as opened, browser(opened, host) as client:
        assert "vault" in (await client.get("/ui/")).text
        assert "vault" in (await client.get("/ui/deliveries")).text
        assert (await client.get("/ui/sign-in")).status_code == 404


@in_world()
async def test_an_api_server_that_reviews_nothing_is_said(world: World) -> None:
    world.answer(Response(403, {}, b"{}"), "POST", "tokenreviews")
    async with page(world) as opened, browser(opened) as client:
        answer = await client.post("/ui/sign-in", data={"token": "t"})
        assert answer.status_code == 503
        assert "knative/components/ui" in answer.text


@in_world()
async def test_a_page_waits_seconds_and_no_longer_for_an_api_server_that_hangs(world: World) -> None:
    await two_tenants(world)
    await grant(world, "ada", SEES_WARMIMAGES, "shop")
    async with page(world) as opened, browser(opened, authorization=f"Bearer {await token(world, 'ada')}") as client:
        assert (await client.get("/ui/")).status_code == 200
        world.answer(None, after=600)
        await asyncio.sleep(60)
        began = world.monotonic()
        answer = await client.get("/ui/images/shop/web")
        assert (answer.status_code, world.monotonic() - began < 15) == (200, True)
