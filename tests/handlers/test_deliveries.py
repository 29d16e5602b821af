"""Bodies with a content encoding are read within the same bounds; secrets of any bytes are compared as they are."""

from __future__ import annotations

import gzip
import hashlib
import hmac
import json
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote, quote_from_bytes

import httpx
import pytest

from adapters.registries import Delivery
from handlers.intake.deliveries import decode_body, read_delivery
from handlers.serving.bodies import BadBody
from tests.adapters.registries.cases import RECEIVED
from tests.handlers.test_receiver import MIB, deliveries
from tests.handlers.world import HOST, World, harbor_push, in_world

ODD_SECRETS = [b"ends with a space ", b" begins with one", "voil\u00e0".encode(), b"\xff\xfe\x00\x80", b"a+b&c=d%41#e"]
QUERY = f"sources: [{{name: quay, kind: quay, secret: {{env: HARBOR}}, allowedHosts: [quay.io, {HOST}]}}]"


def restart(world: World, path: Path, secret: bytes, *, kind: str) -> None:
    """There is one sender, of this kind and with this secret."""
    path.write_bytes(secret)
    source = {"name": "sender", "kind": kind, "secret": {"file": str(path)}, "allowedHosts": [HOST]}
    world.restart(sources=json.dumps({"sources": [source]}))


def _encoded(body: bytes, encoding: str) -> Delivery:
    return Delivery(body, RECEIVED, headers={"content-encoding": encoding})


@in_world(policy=True)
async def test_a_gzip_body_is_read(world: World) -> None:
    body = gzip.compress(json.dumps(harbor_push(world.now(), "v1", "shop/app", "sha256:" + "a" * 64)).encode())
    headers = {"authorization": world.environ["HARBOR"], "content-encoding": "gzip"}
    answer = await world.client.post("/webhooks/harbor", content=body, headers=headers)
    assert (answer.status_code, answer.content) == (202, b"")
    assert list(await world.warmimages()) == [f"{HOST}/shop/app:v1"]


@in_world()
async def test_a_signature_covers_the_bytes_as_they_were_sent(world: World, tmp_path: Path) -> None:
    restart(world, tmp_path / "secret", b"s3cret", kind="github")
    plain = b'{"zen": "Keep it logically awesome.", "hook_id": 1}'
    sent = gzip.compress(plain)
    for signed, status in ((sent, 202), (plain, 401)):
        signature = "sha256=" + hmac.new(b"s3cret", signed, hashlib.sha256).hexdigest()
        headers = {"x-hub-signature-256": signature, "content-encoding": "gzip"}
        answer = await world.client.post("/webhooks/sender", content=sent, headers=headers)
        assert answer.status_code == status
    assert [line["reason"] for line in deliveries()] == ["ping", "bad-secret"]


@in_world()
async def test_an_unknown_encoding_is_415_for_who_knows_the_secret_and_401_for_others(world: World) -> None:
    for secret, status in ((world.environ["HARBOR"], 415), ("other", 401)):
        headers = {"authorization": secret, "content-encoding": "br"}
        answer = await world.client.post("/webhooks/harbor", content=b"x", headers=headers)
        assert answer.status_code == status
    assert [line["reason"] for line in deliveries()] == ["unknown-encoding", "bad-secret"]
    assert world.metric("warmhook_deliveries_total", result="refused", reason="unknown-encoding") == 1


@in_world()
async def test_a_body_is_decompressed_within_the_bound_of_any_body(world: World) -> None:
    for size, status in ((MIB, 202), (MIB + 1, 413), (50 * MIB, 413)):
        headers = {"authorization": world.environ["HARBOR"], "content-encoding": "gzip"}
        body = gzip.compress(bytes(size), 9)
        assert len(body) < MIB
        assert (await world.client.post("/webhooks/harbor", content=body, headers=headers)).status_code == status
    assert [line["reason"] for line in deliveries()] == ["malformed", "too-large", "too-large"]


@pytest.mark.parametrize(
    "body",
    [b"{}", b"", gzip.compress(b"{}")[:-1], gzip.compress(b"{}") + b"x", b"\x1f\x8b\x08"],
    ids=["plain", "empty", "cut", "longer", "header"],
)
def test_a_body_that_is_no_gzip_is_left_as_it_is(body: bytes) -> None:
    assert decode_body(_encoded(body, "gzip")).body == body


@pytest.mark.parametrize(
    ("encoding", "content"), [("", b"x"), ("identity", b"x"), ("GZIP", b""), ("x-gzip", b""), ("identity, gzip", b"")]
)
def test_encodings_are_told_by_their_names(encoding: str, content: bytes) -> None:
    assert decode_body(_encoded(content or gzip.compress(b"y"), encoding)).body == (content or b"y")


@pytest.mark.parametrize("encoding", ["deflate", "zstd", "gzip, gzip", "gzip, br"])
def test_other_encodings_are_refused(encoding: str) -> None:
    with pytest.raises(BadBody) as refused:
        decode_body(_encoded(b"", encoding))

    assert refused.value.status == 415


@pytest.mark.parametrize("secret", ODD_SECRETS)
@in_world()
async def test_a_secret_of_any_bytes_is_taken_in_a_header(world: World, tmp_path: Path, secret: bytes) -> None:
    restart(world, tmp_path / "secret", secret + b"\n", kind="harbor")
    # A server hands out a header's value without the spaces around it.
    forms = [(secret.strip(b" "), 202), (b"Bearer " + secret.strip(b" "), 202), (secret[:-2], 401)]
    for given, status in forms:
        answer = await world.client.post("/webhooks/sender", content=b"{}", headers=[(b"authorization", given)])
        assert answer.status_code == status


@pytest.mark.parametrize("secret", ODD_SECRETS)
@in_world()
async def test_a_secret_of_any_bytes_is_taken_percent_encoded_in_the_url(
    world: World, tmp_path: Path, secret: bytes
) -> None:
    restart(world, tmp_path / "secret", secret + b"\n", kind="quay")
    url = httpx.URL("http://web/webhooks/sender")
    for given, status in ((secret, 202), (secret[:-1], 401), (secret + b"\n", 401)):
        query = b"token=" + quote_from_bytes(given, safe="").encode()
        answer = await world.client.post(url.copy_with(query=query), content=b"{}")
        assert answer.status_code == status


@pytest.mark.parametrize("secret", ["a+b", "a&b", "a%41", "a#b", "a+b&c%#d"])
@in_world(sources=QUERY)
async def test_the_log_says_of_a_token_that_is_right_but_not_percent_encoded(world: World, secret: str) -> None:
    world.environ["HARBOR"] = secret
    # A client sends no fragment.
    pasted = f"/webhooks/quay?token={secret.partition('#')[0]}"
    for url, status in ((pasted, 401), (f"/webhooks/quay?token={quote(secret, safe='')}", 202)):
        assert (await _post_verbatim(world, url)).status_code == status
    assert (await _post_verbatim(world, "/webhooks/quay?token=x+y")).status_code == 401
    assert [line["reason"] for line in deliveries()] == ["token-not-encoded", "unknown-event", "bad-secret"]


async def _post_verbatim(world: World, url: str) -> httpx.Response:
    """Post to a URL whose query the client leaves as it is."""
    path, _, query = url.partition("?")
    return await world.client.post(httpx.URL(f"http://web{path}").copy_with(query=query.encode()), content=b"{}")


@in_world()
async def test_a_secret_that_names_its_scheme_is_taken_as_an_access_token(world: World, tmp_path: Path) -> None:
    restart(world, tmp_path / "secret", b"Bearer s3cret", kind="cloudevents")
    queries: list[tuple[Mapping[str, str], int]] = [
        ({"access_token": "s3cret"}, 202),
        ({"access_token": "Bearer s3cret"}, 202),
        ({"access_token": "Bearer"}, 401),
        ({"access_token": ""}, 401),
    ]
    for query, status in queries:
        answer = await world.client.post("/webhooks/sender", params=query, content=b"{}")
        assert answer.status_code == status
    for given, status in (("Bearer s3cret", 202), ("bearer s3cret", 202), ("Basic s3cret", 401), ("Bearer ", 401)):
        answer = await world.client.post("/webhooks/sender", headers={"authorization": given}, content=b"{}")
        assert answer.status_code == status


def test_a_query_is_read_without_losing_a_byte() -> None:
    delivery = read_delivery({}, b"token=%ff%C3%A0+x\xe9&empty=&token2", b"", RECEIVED)

    assert delivery.query["token"].encode(errors="surrogateescape") == b"\xff\xc3\xa0 x\xe9"
    assert delivery.query["empty"] == ""
    assert delivery.query_string == b"token=%ff%C3%A0+x\xe9&empty=&token2"


@pytest.mark.parametrize(
    ("body", "reason", "detail"),
    [
        (b"not JSON", "malformed", "no JSON: Expecting value: line 1 column 1 (char 0)"),
        (b'{"image": "web:1"}', "no-registry-host", "the payload names no host; set registryHost"),
        (b'{"hello": 1}', "unknown-event", "neither image, images nor name"),
        (b'{"image": "x.example/web:1"}', "host-not-allowed", None),
    ],
)
@in_world()
async def test_the_log_says_what_was_seen_of_a_delivery_that_asks_for_nothing(
    world: World, tmp_path: Path, body: bytes, reason: str, detail: str | None
) -> None:
    restart(world, tmp_path / "secret", b"s3cret", kind="webhook")
    answer = await world.client.post("/webhooks/sender", content=body, headers={"authorization": "s3cret"})
    assert (answer.status_code, answer.content) == (202, b"")
    assert [(line["reason"], line.get("detail")) for line in deliveries()] == [(reason, detail)]
