"""A token authenticates a sender if the configured account signed it for this receiver and it is valid at receipt."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from pathlib import Path
from typing import Any, Final

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from adapters.registries import Delivery, Keys, Source, find_adapter
from adapters.registries.common.jwks import FetchedKeys, FileKeys, fetch_text
from tests.adapters.registries.cases import RECEIVED
from tests.support.instant import instant

NOW: Final = int(RECEIVED.timestamp())
KEY, OTHER_KEY = (rsa.generate_private_key(public_exponent=65537, key_size=2048) for _ in range(2))
AUDIENCE, ACCOUNT = "https://hooks.example.com/webhooks/gar", "push@acme.iam.gserviceaccount.com"
TIMES: Final = {"iat": NOW - 10, "exp": NOW + 3590}
OPTIONS: Final[dict[str, dict[str, object]]] = {
    "gar": {"audience": AUDIENCE, "email": ACCOUNT},
    "chainguard": {"group": "0475f6ba"},
}
CLAIMS: Final[dict[str, dict[str, object]]] = {
    "gar": {
        "iss": "https://accounts.google.com",
        "aud": AUDIENCE,
        "email": ACCOUNT,
        "email_verified": True,
        **TIMES,
    },
    "chainguard": {"iss": "https://issuer.enforce.dev", "aud": "customer", "sub": "webhook:0475f6ba", **TIMES},
}


def _key_set(**keys: rsa.RSAPrivateKey) -> str:
    public = {kid: jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key(), as_dict=True) for kid, key in keys.items()}
    return json.dumps({"keys": [{**key, "kid": kid} for kid, key in public.items()]})


@pytest.fixture
def keys(tmp_path: Path) -> FileKeys:
    (tmp_path / "jwks.json").write_text(_key_set(k1=KEY))
    return FileKeys(tmp_path / "jwks.json")


def _accepted(token: str, keys: Keys | None, kind: str = "gar") -> bool:
    adapter = find_adapter(kind)
    source = Source(kind, secrets=(b"s3cret",), options=adapter.read_options(OPTIONS[kind]), keys=keys)
    headers = {"authorization": f"Bearer {token}"}
    return asyncio.run(adapter.verify(Delivery(b"{}", RECEIVED, headers=headers), source))


def _token(kind: str = "gar", key: rsa.RSAPrivateKey = KEY, kid: str = "k1", **claims: Any) -> str:
    return jwt.encode({**CLAIMS[kind], **claims}, key, algorithm="RS256", headers={"kid": kid})


@pytest.mark.parametrize("kind", CLAIMS)
def test_a_token_of_the_configured_account_is_accepted(keys: FileKeys, kind: str) -> None:
    assert _accepted(_token(kind), keys, kind)


@pytest.mark.parametrize(
    ("kind", "claims"),
    [
        ("gar", {"aud": "https://other.example.com"}),
        ("gar", {"iss": "https://evil.example.com"}),
        ("gar", {"email": "other@acme.iam.gserviceaccount.com"}),
        ("gar", {"email_verified": False}),
        ("gar", {"exp": NOW - 61}),
        ("gar", {"iat": NOW + 61}),
        ("gar", {"nbf": NOW + 61}),
        ("gar", {"exp": None}),
        ("chainguard", {"sub": "webhook:0475f6ba/1a2b"}),
        ("chainguard", {"sub": "0475f6ba"}),
        ("chainguard", {"sub": "webhook:"}),
        ("chainguard", {"aud": "cgr.dev"}),
        ("chainguard", {"iss": "https://accounts.google.com"}),
        ("chainguard", {"exp": NOW - 61}),
    ],
    ids=str,
)
def test_a_token_with_a_wrong_claim_is_refused(keys: FileKeys, kind: str, claims: dict[str, Any]) -> None:
    assert not _accepted(_token(kind, **claims), keys, kind)


NESTED: Final = base64.urlsafe_b64encode(b"[" * 6000).decode().rstrip("=")
HMAC_KEY: Final = b"public key bytes as a common secret"


@pytest.mark.parametrize(
    "token",
    [
        pytest.param(_token(key=OTHER_KEY), id="another key"),
        pytest.param(_token(key=OTHER_KEY, kid="k2"), id="a key that is not in the set"),
        pytest.param(jwt.encode(CLAIMS["gar"], "", algorithm="none", headers={"kid": "k1"}), id="unsigned"),
        pytest.param(jwt.encode(CLAIMS["gar"], HMAC_KEY, algorithm="HS256", headers={"kid": "k1"}), id="symmetric"),
        *("", "x", "a.b.c", "s3cret", "x" * 10_000, "à.b.c", "\xff"),
        pytest.param(f"{NESTED}.b.c", id="nested"),
    ],
)
def test_a_token_that_no_key_of_the_set_signed_is_refused(keys: FileKeys, token: str) -> None:
    assert not _accepted(token, keys)


def test_without_keys_every_token_is_refused() -> None:
    assert not _accepted(_token(), None)


def test_a_key_that_cannot_be_used_does_not_affect_the_others(tmp_path: Path) -> None:
    good = json.loads(_key_set(k1=KEY))["keys"]
    (tmp_path / "keys").write_text(json.dumps({"keys": [7, {"kid": "k2", "kty": "RSA", "n": 1, "e": []}, *good]}))

    assert _accepted(_token(), FileKeys(tmp_path / "keys"))
    assert not _accepted(_token(kid="k2"), FileKeys(tmp_path / "keys"))


class Address:
    """An address of keys that can fail and change."""

    def __init__(self, answer: str | OSError = "") -> None:
        self.answer = answer or _key_set(k1=KEY)
        self.requests = 0

    async def fetch(self, url: str) -> str:
        self.requests += 1
        if isinstance(self.answer, OSError):
            raise self.answer
        return self.answer

    def keys(self) -> FetchedKeys:
        def monotonic() -> float:
            return asyncio.get_running_loop().time()

        return FetchedKeys("https://keys.example.com/certs", fetch=self.fetch, monotonic=monotonic)


ERROR_PAGES: Final = ["<html>502", "", "null", "[]", "{}", '{"keys": []}', '{"keys": {}}', "[" * 100_000]


def test_a_missing_key_file_is_an_error_and_not_a_wrong_token(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"jwks\.json"):
        _accepted(_token(), FileKeys(tmp_path / "jwks.json"))


@pytest.mark.parametrize("page", ERROR_PAGES, ids=lambda page: page[:12])
def test_a_page_that_is_not_a_key_set_is_an_error_and_not_a_wrong_token(page: str, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(page)
    address = Address()
    address.answer = page

    for keys in (address.keys(), FileKeys(tmp_path / "keys")):
        with pytest.raises(OSError, match="keys"):
            _accepted(_token(), keys)


def test_an_address_that_never_answered_is_an_error_with_its_reason() -> None:
    with pytest.raises(OSError, match="no route"):
        _accepted(_token(), Address(OSError("no route")).keys())


@instant
async def test_fetched_keys_are_cached_for_an_hour() -> None:
    address = Address()
    keys = address.keys()

    await asyncio.gather(keys.read("k1"), keys.read("k1"))
    assert address.requests == 1
    await asyncio.sleep(3600)
    await keys.read("k1")

    assert address.requests == 2


@instant
async def test_unknown_keys_cause_at_most_one_request_a_minute() -> None:
    address = Address()
    keys = address.keys()

    for number in range(5):
        await keys.read(f"unknown-{number}")
    assert address.requests == 1
    await asyncio.sleep(60)
    address.answer = _key_set(k2=OTHER_KEY)

    assert await keys.read("k2") == address.answer
    assert address.requests == 2


@pytest.mark.parametrize("answer", [OSError("no route"), *ERROR_PAGES], ids=lambda answer: str(answer)[:12])
@instant
async def test_cached_keys_stay_in_use_while_their_address_fails(answer: str | OSError) -> None:
    address = Address()
    keys = address.keys()

    await keys.read("k1")
    await asyncio.sleep(7200)
    address.answer = answer

    assert '"k1"' in await keys.read("k1")
    assert address.requests == 2


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
def test_keys_are_read_without_redirects_and_within_a_size_limit(answer: str, outcome: str) -> None:
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
