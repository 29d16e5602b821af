"""Only a token is believed that the configured account signed for us, and that is valid at the time of receipt."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from adapters.registries import Delivery, Source, find_adapters
from adapters.registries.common.jwks import FetchedKeys, FileKeys, fetch_text
from tests.adapters.registries.cases import RECEIVED

GAR, CHAINGUARD = (find_adapters()[kind] for kind in ("gar", "chainguard"))
AUDIENCE, ACCOUNT = "https://hooks.example.com/webhooks/gar", "push@acme.iam.gserviceaccount.com"
KEY, OTHER_KEY = (rsa.generate_private_key(public_exponent=65537, key_size=2048) for _ in range(2))
NOW = int(RECEIVED.timestamp())
CLAIMS = {
    "iss": "https://accounts.google.com",
    "aud": AUDIENCE,
    "email": ACCOUNT,
    "email_verified": True,
    "iat": NOW - 10,
    "exp": NOW + 3590,
}


def _key_set(**keys: rsa.RSAPrivateKey) -> str:
    rendered = [jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key(), as_dict=True) for key in keys.values()]
    return json.dumps({"keys": [{**key, "kid": kid} for kid, key in zip(keys, rendered, strict=True)]})


@pytest.fixture
def keys(tmp_path: Path) -> FileKeys:
    (tmp_path / "jwks.json").write_text(_key_set(k1=KEY))
    return FileKeys(tmp_path / "jwks.json")


def _believed(token: str, keys: Any, *, options: Mapping[str, object] | None = None) -> bool:
    given = {"audience": AUDIENCE, "email": ACCOUNT} if options is None else options
    source = Source("gar", secrets=(b"s3cret",), options=GAR.read_options(given), keys=keys)
    headers = {"authorization": f"Bearer {token}"}
    return asyncio.run(GAR.verify(Delivery(b"{}", RECEIVED, headers=headers), source))


def _token(key: rsa.RSAPrivateKey = KEY, kid: str = "k1", **claims: Any) -> str:
    return jwt.encode({**CLAIMS, **claims}, key, algorithm="RS256", headers={"kid": kid})


def test_a_token_of_the_account_for_us_is_believed(keys: FileKeys) -> None:
    assert _believed(_token(), keys)


@pytest.mark.parametrize(
    "claims",
    [
        {"aud": "https://other.example.com"},
        {"iss": "https://evil.example.com"},
        {"email": "other@acme.iam.gserviceaccount.com"},
        {"email_verified": False},
        {"exp": NOW - 61},
        {"iat": NOW + 61},
        {"nbf": NOW + 61},
        {"exp": None},
    ],
    ids=str,
)
def test_a_token_with_a_wrong_claim_is_not_believed(keys: FileKeys, claims: dict[str, Any]) -> None:
    assert not _believed(_token(**claims), keys)


@pytest.mark.parametrize(
    ("claims", "believed"),
    [
        ({}, True),
        ({"sub": "webhook:0475f6ba/1a2b"}, False),
        ({"sub": "0475f6ba"}, False),
        ({"sub": "webhook:"}, False),
        ({"aud": "cgr.dev"}, False),
        ({"iss": "https://accounts.google.com"}, False),
        ({"exp": NOW - 61}, False),
    ],
    ids=str,
)
def test_a_token_of_chainguard_is_believed_for_its_group_only(
    keys: FileKeys, claims: dict[str, Any], believed: bool
) -> None:
    given = {"iss": "https://issuer.enforce.dev", "aud": "customer", "sub": "webhook:0475f6ba"} | claims
    token = jwt.encode({"iat": NOW - 10, "exp": NOW + 3590} | given, KEY, algorithm="RS256", headers={"kid": "k1"})
    source = Source("chainguard", options=CHAINGUARD.read_options({"group": "0475f6ba"}), keys=keys)
    delivery = Delivery(b"{}", RECEIVED, headers={"authorization": f"Bearer {token}"})

    assert asyncio.run(CHAINGUARD.verify(delivery, source)) is believed


def test_a_token_of_another_key_is_not_believed(keys: FileKeys) -> None:
    assert not _believed(_token(OTHER_KEY), keys)
    assert not _believed(_token(OTHER_KEY, kid="k2"), keys)


def test_a_token_that_chooses_its_own_algorithm_is_not_believed(keys: FileKeys) -> None:
    unsigned = jwt.encode(CLAIMS, "", algorithm="none", headers={"kid": "k1"})
    symmetric = jwt.encode(CLAIMS, b"public key bytes as a common secret", algorithm="HS256", headers={"kid": "k1"})

    assert not _believed(unsigned, keys)
    assert not _believed(symmetric, keys)


NESTED = base64.urlsafe_b64encode(b"[" * 6000).decode().rstrip("=")


@pytest.mark.parametrize("token", ["", "x", "a.b.c", "s3cret", "x" * 10_000, "à.b.c", "\xff", f"{NESTED}.b.c"])
def test_what_is_no_token_is_not_believed(keys: FileKeys, token: str) -> None:
    assert not _believed(token, keys)


def test_without_keys_nothing_is_believed() -> None:
    assert not _believed(_token(), None)


def test_keys_that_cannot_be_read_are_not_a_wrong_token(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"jwks\.json"):
        _believed(_token(), FileKeys(tmp_path / "jwks.json"))


class Address:
    """An address of keys that can fail and change, and a clock."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.asked = 0
        self.answer: str | OSError = _key_set(k1=KEY)

    async def fetch(self, url: str) -> str:
        self.asked += 1
        if isinstance(self.answer, OSError):
            raise self.answer
        return self.answer

    def keys(self) -> FetchedKeys:
        return FetchedKeys("https://keys.example.com/certs", fetch=self.fetch, monotonic=lambda: self.now)


def test_fetched_keys_are_kept_for_an_hour() -> None:
    address = Address()
    keys = address.keys()

    async def read_twice_and_later() -> None:
        await asyncio.gather(keys.read("k1"), keys.read("k1"))
        assert address.asked == 1
        address.now += timedelta(hours=1).total_seconds()
        await keys.read("k1")

    asyncio.run(read_twice_and_later())
    assert address.asked == 2


def test_an_unknown_key_makes_them_fetched_again_but_once_a_minute() -> None:
    address = Address()
    keys = address.keys()

    async def read_unknown_ones() -> str:
        for number in range(5):
            await keys.read(f"unknown-{number}")
        assert address.asked == 1
        address.now += 60
        address.answer = _key_set(k2=OTHER_KEY)
        return await keys.read("k2")

    assert asyncio.run(read_unknown_ones()) == address.answer
    assert address.asked == 2


def test_kept_keys_serve_while_their_address_does_not_answer() -> None:
    address = Address()
    keys = address.keys()

    async def read_through_an_outage() -> str:
        await keys.read("k1")
        address.now += 7200
        address.answer = OSError("no route")
        return await keys.read("k1")

    assert '"k1"' in asyncio.run(read_through_an_outage())


ERROR_PAGES = ["<html>502 Bad Gateway</html>", "", "null", "[]", "{}", '{"keys": []}', '{"keys": {}}', "[" * 100_000]


@pytest.mark.parametrize("page", ERROR_PAGES, ids=lambda page: page[:12])
def test_a_page_that_is_no_key_set_does_not_replace_the_keys_that_are_kept(page: str) -> None:
    address = Address()
    keys = address.keys()

    async def read_through_error_pages() -> str:
        await keys.read("k1")
        address.now += 7200
        address.answer = page
        return await keys.read("k1")

    assert '"k1"' in asyncio.run(read_through_error_pages())
    assert address.asked == 2


@pytest.mark.parametrize("page", ERROR_PAGES, ids=lambda page: page[:12])
def test_without_any_keys_a_page_that_is_no_key_set_is_not_a_wrong_token(page: str, tmp_path: Path) -> None:
    address = Address()
    address.answer = page
    (tmp_path / "keys").write_text(page)

    for keys in (address.keys(), FileKeys(tmp_path / "keys")):
        with pytest.raises(OSError, match="keys"):
            _believed(_token(), keys)


def test_a_key_that_cannot_be_used_leaves_the_others_alone(tmp_path: Path) -> None:
    good = json.loads(_key_set(k1=KEY))["keys"]
    (tmp_path / "keys").write_text(json.dumps({"keys": [7, {"kid": "k2", "kty": "RSA", "n": 1, "e": []}, *good]}))

    assert _believed(_token(), FileKeys(tmp_path / "keys"))
    assert not _believed(_token(kid="k2"), FileKeys(tmp_path / "keys"))


def test_keys_never_fetched_say_why() -> None:
    address = Address()
    address.answer = OSError("no route")

    with pytest.raises(OSError, match="no route"):
        asyncio.run(address.keys().read("k1"))


def test_keys_are_fetched_by_https_only() -> None:
    with pytest.raises(ValueError, match="https"):
        FetchedKeys("http://keys.example.com", fetch=Address().fetch, monotonic=lambda: 0.0)


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        ("200 OK\r\nContent-Length: 2\r\n\r\n{}", "{}"),
        ("302 Found\r\nLocation: https://evil.example.com\r\nContent-Length: 0\r\n\r\n", "302 Found"),
        ("500 Broken\r\nContent-Length: 0\r\n\r\n", "500 Broken"),
        ("200 OK\r\nContent-Length: 300000\r\n\r\n" + "x" * 300_000, "more than 262144 bytes"),
    ],
    ids=["found", "moved", "broken", "endless"],
)
def test_keys_are_read_from_their_own_address_and_in_bounds(answer: str, outcome: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 {answer}".encode())
        with contextlib.suppress(ConnectionError):
            await writer.drain()
        writer.close()

    async def fetched() -> str:
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            try:
                return await fetch_text(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/certs")
            except OSError as error:
                return str(error)

    assert outcome in asyncio.run(fetched())
