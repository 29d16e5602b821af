"""A token of another agent is verified with the keys of the cluster, read seldom and kept while nobody answers."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from functools import cache
from random import Random
from typing import Any

import jwt
import pytest
import structlog
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm
from structlog.testing import capture_logs

from adapters.clock import Clock
from adapters.kubernetes.client import Kubernetes
from adapters.service_account_tokens import (
    ISSUER_PATH,
    KEYS_PATH,
    LEEWAY_SECONDS,
    REREAD_SECONDS,
    TokenVerifier,
    Verified,
    token_subject,
)
from adapters.tasks import in_background
from devcluster.apiserver import ApiServer, InProcessTransport
from devcluster.tokens import peer_token
from tests.support.instant import instant, loop_clock
from tests.support.peers import AGENTS, START
from warmhook.peer_requests import AUDIENCE
from warmhook.ports import Response, Unreachable

ISSUER = "https://issuer.example.com"


@cache
def ec_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@cache
def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


def published() -> list[dict[str, Any]]:
    """The keys of a cluster that rotates from RSA to an elliptic curve, and one that nobody should use."""
    secret = base64.urlsafe_b64encode(b"x" * 32).decode()
    return [
        {**ECAlgorithm.to_jwk(ec_key().public_key(), as_dict=True), "kid": "ec", "alg": "ES256"},
        {**RSAAlgorithm.to_jwk(rsa_key().public_key(), as_dict=True), "kid": "rsa", "alg": "RS256"},
        {**RSAAlgorithm.to_jwk(rsa_key().public_key(), as_dict=True), "kid": "pss", "alg": "PS256"},
        {"kty": "oct", "k": secret, "kid": "secret", "alg": "HS256"},
    ]


class Published:
    """An API server that publishes keys."""

    def __init__(self) -> None:
        self.keys: Any = published()
        self.issuer: Any = ISSUER
        self.status = 200
        self.down = False
        self.asked: list[tuple[str, str]] = []

    async def request(self, _method: str, path: str, *, headers: Any, **_given: Any) -> Response:
        self.asked.append((path, headers["accept"]))
        if self.down:
            raise Unreachable("nobody answers")
        content = {ISSUER_PATH: {"issuer": self.issuer}, KEYS_PATH: {"keys": self.keys}}[path]
        return Response(self.status, {}, json.dumps(content).encode())


class Cluster:
    """A verifier and the cluster whose keys it reads."""

    def __init__(self, clock: Clock) -> None:
        self.clock, self.published = clock, Published()
        self.verifier = TokenVerifier(
            Kubernetes(self.published),  # type: ignore[arg-type]  # it only sends requests
            clock,
            structlog.get_logger(),
            subject=AGENTS,
            audience=AUDIENCE,
        )

    def token(
        self, key: Any = None, algorithm: str = "ES256", headers: dict[str, Any] | None = None, **different: Any
    ) -> str:
        """A token for the agent of node-1, valid for ten minutes; a claim that is `None` is left out."""
        now = self.clock.utcnow().timestamp()
        claims = {
            "iss": ISSUER,
            "aud": [AUDIENCE],
            "sub": AGENTS,
            "iat": now,
            "nbf": now,
            "exp": now + 600,
            "kubernetes.io": different.pop("bound", {"namespace": "warmhook-agents", "node": {"name": "node-1"}}),
            **different,
        }
        claims = {name: value for name, value in claims.items() if value is not None}
        return jwt.encode(claims, ec_key() if key is None else key, algorithm, headers=headers or {"kid": "ec"})


@contextlib.asynccontextmanager
async def cluster() -> AsyncIterator[Cluster]:
    """A verifier that has read the keys."""
    subject = Cluster(loop_clock(START))
    async with in_background(subject.verifier.run(), "keys"):
        await subject.verifier.ready.wait()
        yield subject


@instant
async def test_a_token_of_an_agent_says_its_node() -> None:
    async with cluster() as c:
        expires_at = START.timestamp() + 600
        assert c.verifier.verify(c.token()) == Verified("node-1", expires_at)
        assert c.verifier.verify(c.token(rsa_key(), "RS256", {"kid": "rsa"})) == Verified("node-1", expires_at)
        assert c.verifier.verify(c.token(aud=["other", AUDIENCE])) is not None
        assert c.verifier.verify(c.token(aud=AUDIENCE)) is not None


REFUSED: dict[str, Callable[[Cluster], str]] = {
    "another audience": lambda c: c.token(aud=["https://kubernetes.default.svc"]),
    "no audience": lambda c: c.token(aud=None),
    "another issuer": lambda c: c.token(iss="https://other.example.com"),
    "no issuer": lambda c: c.token(iss=None),
    "another ServiceAccount": lambda c: c.token(sub="system:serviceaccount:warmhook-agents:default"),
    "no subject": lambda c: c.token(sub=None),
    "no node": lambda c: c.token(bound={"namespace": "warmhook-agents"}),
    "an empty node": lambda c: c.token(bound={"node": {"name": ""}}),
    "a node that is no text": lambda c: c.token(bound={"node": {"name": ["node-1"]}}),
    "no claims of Kubernetes": lambda c: c.token(bound="node-1"),
    "expired": lambda c: c.token(exp=START.timestamp() - LEEWAY_SECONDS - 1),
    "without an end": lambda c: c.token(exp=None),
    "an end that is no number": lambda c: c.token(exp="never"),
    "not valid yet": lambda c: c.token(nbf=START.timestamp() + LEEWAY_SECONDS + 1),
    "an unknown key": lambda c: c.token(headers={"kid": "other"}),
    "no key": lambda c: c.token(headers={"typ": "JWT"}),
    "signed by another key": lambda c: c.token(ec.generate_private_key(ec.SECP256R1())),
    "the key of another algorithm": lambda c: c.token(headers={"kid": "rsa"}),
    "an algorithm that the API server does not use": lambda c: c.token(rsa_key(), "PS256", {"kid": "pss"}),
    "a shared secret": lambda c: c.token("x" * 32, "HS256", {"kid": "secret"}),
    "a public key as a shared secret": lambda c: c.token(str(published()[0]), "HS256", {"kid": "ec"}),
    "no signature": lambda c: c.token("", "none", {"kid": "ec"}),
    "a signature that was cut": lambda c: c.token()[:-2],
    "claims that were changed": lambda c: _changed(c.token(), c.token(sub="x")),
    "a long token": lambda c: c.token(other="x" * 10_000),
    "no form": lambda _: "a.b.c",
    "nothing": lambda _: "",
    "no ASCII": lambda _: "\xff.\xff.\xff",
}


def _changed(token: str, other: str) -> str:
    return ".".join([token.split(".", maxsplit=1)[0], other.split(".")[1], token.split(".")[2]])


@pytest.mark.parametrize("name", REFUSED)
def test_every_other_token_is_refused(name: str) -> None:
    @instant
    async def refuse() -> None:
        async with cluster() as c:
            assert c.verifier.verify(REFUSED[name](c)) is None
            assert c.verifier.verify(c.token()) is not None

    refuse()


@instant
async def test_clocks_of_nodes_may_differ_a_little() -> None:
    async with cluster() as c:
        now = START.timestamp()
        assert c.verifier.verify(c.token(exp=now - LEEWAY_SECONDS + 1)) is not None
        assert c.verifier.verify(c.token(nbf=now + LEEWAY_SECONDS - 1)) is not None


@instant
async def test_no_token_is_valid_before_the_keys_were_read() -> None:
    c = Cluster(loop_clock(START))
    assert c.verifier.verify(c.token()) is None


@instant
async def test_the_keys_are_asked_for_as_the_api_server_gives_them() -> None:
    async with cluster() as c:
        assert dict(c.published.asked) == {
            ISSUER_PATH: "application/json",
            KEYS_PATH: "application/jwk-set+json",
        }


@instant
async def test_tokens_cause_no_request_and_unknown_keys_one_a_minute() -> None:
    async with cluster() as c:
        for _ in range(1000):
            c.verifier.verify(c.token())
        await asyncio.sleep(REREAD_SECONDS + 1)
        assert len(c.published.asked) == 2
        for _ in range(60 * 10):
            assert c.verifier.verify(c.token(headers={"kid": "other"})) is None
            await asyncio.sleep(1)
        assert 2 * 9 <= len(c.published.asked) <= 2 * 12


@instant
async def test_a_new_key_is_known_within_a_minute_and_an_old_one_forgotten_within_hours() -> None:
    async with cluster() as c:
        new = ec.generate_private_key(ec.SECP256R1())
        key = {**ECAlgorithm.to_jwk(new.public_key(), as_dict=True), "kid": "new", "alg": "ES256"}
        c.published.keys = [*published(), key]
        assert c.verifier.verify(c.token(new, headers={"kid": "new"})) is None
        await asyncio.sleep(REREAD_SECONDS + 1)
        assert c.verifier.verify(c.token(new, headers={"kid": "new"})) is not None
        before = c.verifier.generation
        c.published.keys = [key]
        await asyncio.sleep(2 * 3600)
        assert c.verifier.verify(c.token()) is None
        # What was verified with the old key is to be verified again.
        assert c.verifier.generation == before + 1


@instant
async def test_keys_stay_in_use_while_the_api_server_does_not_answer() -> None:
    with capture_logs() as logs:
        async with cluster() as c:
            c.published.down = True
            await asyncio.sleep(24 * 3600)
            assert c.verifier.verify(c.token()) is not None
            c.published.down = False
            await asyncio.sleep(3600)
    events = [log["event"] for log in logs]
    assert (events[0], events[-1]) == ("token-keys-not-read", "token-keys-not-read-over")


@pytest.mark.parametrize(
    "change",
    [
        {"status": 404},
        {"status": 403},
        {"issuer": ""},
        {"issuer": None},
        {"keys": "x"},
        {"keys": None},
        {"keys": [{"kty": "RSA"}] * 1000},
    ],
)
def test_an_answer_without_keys_changes_nothing_and_is_logged(change: dict[str, Any]) -> None:
    @instant
    async def read() -> None:
        async with cluster() as c:
            for name, value in change.items():
                setattr(c.published, name, value)
            with capture_logs() as logs:
                await asyncio.sleep(2 * 3600)
            assert logs[0]["event"] == "token-keys-not-read"
            assert "service-account-issuer" in logs[0]["hint"]
            assert c.verifier.verify(c.token()) is not None

    read()


@instant
async def test_a_key_that_cannot_be_read_spoils_no_other() -> None:
    async with cluster() as c:
        odd: list[Any] = [
            {"kty": "EC", "crv": "P-256", "x": "!", "y": "", "kid": "odd"},
            {"kty": "EC", "kid": "odder"},
            7,
        ]
        c.published.keys = [*odd, *published()]
        c.verifier.verify(c.token(headers={"kid": "other"}))
        await asyncio.sleep(2 * REREAD_SECONDS)
        assert c.verifier.verify(c.token(headers={"kid": "odd"})) is None
        assert c.verifier.verify(c.token(headers={"kid": "odder"})) is None
        assert c.verifier.verify(c.token()) is not None


@instant
async def test_a_token_of_the_embedded_cluster_is_one() -> None:
    clock = loop_clock(START)
    kubernetes = Kubernetes(InProcessTransport(ApiServer(clock.utcnow, Random(0))))
    await kubernetes.create("/api/v1/nodes", {"metadata": {"name": "node-1"}})
    token = await peer_token(kubernetes, "node-1")
    verifier = TokenVerifier(kubernetes, clock, structlog.get_logger(), subject=token_subject(token), audience=AUDIENCE)
    async with in_background(verifier.run(), "keys"):
        await verifier.ready.wait()
        assert verifier.verify(token) == Verified("node-1", START.timestamp() + 3600)
    assert token_subject(token) == AGENTS


@pytest.mark.parametrize("token", ["", "a", "a.b.c", "a.e30.c", "a.W10.c", "a.eyJzdWIiOjF9.c"])
def test_a_text_that_is_no_token_names_no_account(token: str) -> None:
    assert token_subject(token) == ""
