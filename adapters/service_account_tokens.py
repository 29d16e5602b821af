"""Verify ServiceAccount tokens of other agents with the keys of the cluster, without a request for each token.

The keys and the issuer are read from the API server when the agent starts, every hour, and if a token names an unknown
key, then at most once a minute. While the API server does not answer, those that were read last stay in use.
https://kubernetes.io/docs/tasks/configure-pod-container/configure-service-account/#service-account-issuer-discovery
"""

from __future__ import annotations

import asyncio
import base64
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from adapters.clock import Backoff, Clock
from adapters.kubernetes.client import Kubernetes
from adapters.kubernetes.errors import KubernetesError, Unavailable
from adapters.logs import Log
from adapters.outages import OutageLog

if TYPE_CHECKING:
    from jwt import PyJWK

KEYS_PATH: Final = "/openid/v1/jwks"
ISSUER_PATH: Final = "/.well-known/openid-configuration"
LEEWAY_SECONDS: Final = 60
"""The clocks of two nodes may differ by so much. The API server allows the same."""
REREAD_SECONDS: Final = 60.0
"""Between two reads of the keys, whatever tokens name."""

_HOUR: Final = 3600.0
_FIRST_SECONDS: Final = 2.0
_LONGEST_SECONDS: Final = 120.0
# The API server compares it with what it produces, and answers 406 for application/json.
_KEYS_TYPE: Final = "application/jwk-set+json"
_KEYS_MAX: Final = 64
_TOKEN_MAX: Final = 6 * 1024
"""Characters of a token; those of Kubernetes have less than 2,000."""
# What the API server can sign with: https://kubernetes.io/docs/reference/command-line-tools-reference/kube-apiserver/
_ALGORITHMS: Final = ("RS256", "ES256", "ES384", "ES512")
_HINT: Final = "let the agents read it (ClusterRole warmhook-agent), and check --service-account-issuer, an https URL"


@dataclass(frozen=True, slots=True)
class Verified:
    """What a valid token says."""

    node: str
    """The Node of the Pod that it was made for."""
    expires_at: float
    """Unix seconds."""


@dataclass(frozen=True, slots=True)
class _KeySet:
    issuer: str
    keys: Mapping[str, Any]
    """Key ID to the JSON Web Key."""


class TokenVerifier:
    """Verifies the tokens of one ServiceAccount for one audience."""

    def __init__(self, kubernetes: Kubernetes, clock: Clock, log: Log, *, subject: str, audience: str) -> None:
        """`subject`: `system:serviceaccount:<namespace>:<name>`."""
        self._kubernetes, self._clock = kubernetes, clock
        self._subject, self._audience = subject, audience
        self._outage = OutageLog(log, clock, "token-keys-not-read")
        self._set: _KeySet | None = None
        self._parsed: dict[str, PyJWK | None] = {}
        self._wake = asyncio.Event()
        self.ready = asyncio.Event()
        """Set when the keys were read; before that no token is valid."""
        self.generation = 0
        """How often the keys have changed: what was verified before must be verified again."""

    async def run(self) -> None:
        """Keep the keys current, until it is cancelled."""
        backoff = Backoff(self._clock, first_seconds=_FIRST_SECONDS, longest_seconds=_LONGEST_SECONDS)
        while True:
            try:
                await self._read()
            except KubernetesError as error:
                self._outage.failed(error=str(error)[:300], hint=_HINT)
                await self._clock.sleep(backoff.seconds())
                continue
            self.ready.set()
            self._outage.recovered()
            backoff.reset()
            self._wake.clear()
            await self._clock.sleep(REREAD_SECONDS)
            await self._clock.wait(self._wake, self._clock.jitter(_HOUR))

    def verify(self, token: str) -> Verified | None:
        """What the token says; `None` if it is not valid here and now. `token` is hostile input."""
        # Imported here: it takes memory that an agent without children does not need.
        import jwt

        key_set = self._set
        if key_set is None or len(token) > _TOKEN_MAX:
            return None
        try:
            key = self._key(key_set, str(jwt.get_unverified_header(token).get("kid", "")))
            if key is None:
                return None
            claims = jwt.decode(
                token,
                key,
                # That of the key, whatever the token says.
                algorithms=[key.algorithm_name],
                audience=self._audience,
                issuer=key_set.issuer,
                # Times are checked below, by the clock of the agent.
                options={
                    "require": ["exp", "iss", "aud", "sub"],
                    "verify_exp": False,
                    "verify_nbf": False,
                    "verify_iat": False,
                },
            )
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
            return None
        return self._verified(claims)

    def _verified(self, claims: Mapping[str, Any]) -> Verified | None:
        now = self._clock.utcnow().timestamp()
        begins, expires = _time(claims.get("nbf", 0)), _time(claims.get("exp"))
        if not begins - LEEWAY_SECONDS <= now < expires + LEEWAY_SECONDS or claims.get("sub") != self._subject:
            return None
        # The policy on writes of agents needs a token that names its Node as well: since Kubernetes 1.30.
        bound = claims.get("kubernetes.io")
        node = bound.get("node") if isinstance(bound, dict) else None
        name = node.get("name") if isinstance(node, dict) else None
        return Verified(name, expires) if isinstance(name, str) and name else None

    def _key(self, key_set: _KeySet, kid: str) -> PyJWK | None:
        if kid not in key_set.keys:
            # Answered now, as for every other token that is not valid; the child asks again.
            self._wake.set()
            return None
        if kid not in self._parsed:
            self._parsed[kid] = _parse(key_set.keys[kid])
        return self._parsed[kid]

    async def _read(self) -> None:
        issuer = (await self._kubernetes.get(ISSUER_PATH)).get("issuer")
        keys = (await self._kubernetes.get(KEYS_PATH, accept=_KEYS_TYPE)).get("keys")
        if not isinstance(issuer, str) or not issuer or not isinstance(keys, list) or len(keys) > _KEYS_MAX:
            raise Unavailable(f"{ISSUER_PATH} and {KEYS_PATH} have no issuer or no keys")
        found = {str(key.get("kid", "")): key for key in keys if isinstance(key, dict)}
        read = _KeySet(issuer, {kid: key for kid, key in found.items() if key.get("kty") in ("RSA", "EC")})
        if read != self._set:
            self._set, self._parsed = read, {}
            self.generation += 1


def token_subject(token: str) -> str:
    """The ServiceAccount that one's own token names; empty if it cannot be read. Nothing is verified."""
    try:
        payload = token.split(".")[1]
        fields = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        subject = fields["sub"]
    except (ValueError, LookupError, TypeError):
        return ""
    return subject if isinstance(subject, str) else ""


def _parse(fields: Mapping[str, Any]) -> PyJWK | None:
    """`None` for a key of a kind that is not used here."""
    import jwt

    try:
        key = jwt.PyJWK(dict(fields))
    except (jwt.PyJWTError, ValueError, TypeError):
        return None
    return key if key.algorithm_name in _ALGORITHMS else None


def _time(value: object) -> float:
    """Unix seconds; NaN, which is neither before nor after another time, for what is none."""
    return float(value) if isinstance(value, int | float) else math.nan
