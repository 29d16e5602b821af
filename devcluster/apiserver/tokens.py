"""Make ServiceAccount tokens and publish the key that verifies them, as kube-apiserver does.

https://kubernetes.io/docs/reference/kubernetes-api/authentication-resources/token-request-v1/ and
https://kubernetes.io/docs/tasks/configure-pod-container/configure-service-account/#service-account-issuer-discovery
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from devcluster.apiserver.errors import StatusError, internal_json, method_not_allowed
from devcluster.apiserver.store import Store
from warmhook.ports import Object, Response, Utcnow

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ec

ISSUER: Final = "https://kubernetes.default.svc.cluster.local"

_CONFIGURATION: Final = "/.well-known/openid-configuration"
_KEYS: Final = "/openid/v1/jwks"
_KEYS_TYPE: Final = "application/jwk-set+json"
_TOKEN: Final = re.compile(r"/api/v1/namespaces/([a-z0-9-]+)/serviceaccounts/([a-z0-9.-]+)/token")
_SECONDS: Final = 3600
_LEAST_SECONDS: Final = 600


@dataclass(frozen=True, slots=True)
class Verified:
    """What a valid token says."""

    namespace: str
    account: str
    uid: str
    audiences: tuple[str, ...]
    """Those that were asked for and that the token has."""


class TokenIssuer:
    """Signs with a key that is made when it is first used, and lives as long as the server.

    ServiceAccounts and Pods are not looked up; Nodes are.
    """

    def __init__(self, store: Store, now: Utcnow) -> None:
        self._store, self._now = store, now
        self._private: ec.EllipticCurvePrivateKey | None = None

    def handle(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Response | None:
        """The answer; `None` for a path of others. Raises `StatusError`."""
        if path in (_CONFIGURATION, _KEYS):
            if method != "GET":
                raise method_not_allowed()
            return self._keys(headers) if path == _KEYS else _answer(200, _configuration())
        match = _TOKEN.fullmatch(path)
        if match is None:
            return None
        if method != "POST":
            raise method_not_allowed()
        try:
            spec = json.loads(body)["spec"]
            audiences = list(spec.get("audiences") or [ISSUER])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise StatusError(422, "Invalid", "spec: Required value", {}) from error
        return _answer(201, self._token_request(match[1], match[2], audiences, spec))

    def verify(self, token: str, audiences: Sequence[str]) -> Verified | None:
        """Whose token it is; `None` if it is not of this server, has expired, or is for others than `audiences`.

        No audience asked for means that of the API server.
        """
        # Imported here: few tests need it.
        import jwt

        wanted = tuple(audiences) or (ISSUER,)
        try:
            # The clock of the server may be that of a test.
            claims = jwt.decode(
                token,
                self._key().public_key(),
                ["ES256"],
                audience=wanted,
                options={"verify_exp": False, "verify_nbf": False, "verify_iat": False},
            )
        except jwt.InvalidTokenError:
            return None
        if not claims["nbf"] <= self._now().timestamp() < claims["exp"]:
            return None
        bound = claims["kubernetes.io"]
        named = bound["serviceaccount"]
        both = tuple(each for each in wanted if each in claims["aud"])
        return Verified(bound["namespace"], named["name"], named["uid"], both)

    def _token_request(self, namespace: str, account: str, audiences: list[str], spec: Object) -> Object:
        seconds = int(spec.get("expirationSeconds") or _SECONDS)
        if seconds < _LEAST_SECONDS:
            message = (
                f"spec.expirationSeconds: Invalid value: {seconds}: may not specify a duration less than 10 minutes"
            )
            raise StatusError(422, "Invalid", message, {})
        expires = self._now() + timedelta(seconds=seconds)
        bound: Object = {"namespace": namespace, "serviceaccount": {"name": account, "uid": _uid(account)}}
        reference = spec.get("boundObjectRef") or {}
        if reference:
            bound |= self._bound(reference)
        begun = int(self._now().timestamp())
        claims = {
            "aud": audiences,
            "exp": begun + seconds,
            "iat": begun,
            "iss": ISSUER,
            "kubernetes.io": bound,
            "nbf": begun,
            "sub": f"system:serviceaccount:{namespace}:{account}",
        }
        status = {"token": self._signed(claims), "expirationTimestamp": expires.strftime("%Y-%m-%dT%H:%M:%SZ")}
        return {"kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1", "spec": spec, "status": status}

    def _bound(self, reference: Object) -> Object:
        """The claims about a Node. Binding to it needs Kubernetes 1.33; a kubelet binds to the Pod, which names it."""
        node = self._store.table("nodes").items.get(("", str(reference.get("name"))))
        if reference.get("kind") != "Node" or node is None:
            raise StatusError(404, "NotFound", f"no Node {reference.get('name')!r}", {})
        return {"node": {"name": reference["name"], "uid": node.object["metadata"]["uid"]}}

    def _keys(self, headers: Mapping[str, str]) -> Response:
        accepted = [each.partition(";")[0].strip() for each in headers.get("accept", "*/*").split(",")]
        if not {_KEYS_TYPE, "application/*", "*/*"} & set(accepted):
            return Response(406, {"content-type": "text/plain"}, b"406: Not Acceptable\n")
        return Response(200, {"content-type": _KEYS_TYPE}, internal_json({"keys": [self._public()]}))

    def _key(self) -> ec.EllipticCurvePrivateKey:
        # Imported here: few tests need it.
        from cryptography.hazmat.primitives.asymmetric import ec

        if self._private is None:
            self._private = ec.generate_private_key(ec.SECP256R1())
        return self._private

    def _public(self) -> Object:
        from jwt.algorithms import ECAlgorithm

        key: Object = ECAlgorithm.to_jwk(self._key().public_key(), as_dict=True)
        name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:40]
        return {"use": "sig", "alg": "ES256", "kid": name, **{part: key[part] for part in ("kty", "crv", "x", "y")}}

    def _signed(self, claims: Mapping[str, Any]) -> str:
        import jwt

        return jwt.encode(dict(claims), self._key(), "ES256", headers={"kid": self._public()["kid"]})


def _configuration() -> Object:
    return {
        "issuer": ISSUER,
        "jwks_uri": f"{ISSUER}{_KEYS}",
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256"],
    }


def _uid(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:32]


def _answer(status: int, content: Object) -> Response:
    return Response(status, {"content-type": "application/json"}, internal_json(content))
