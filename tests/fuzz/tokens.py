"""A token that is valid, and the key set that says so: a fuzzer would hardly guess one."""

from __future__ import annotations

import json
from datetime import datetime

import jwt
from cryptography.hazmat.primitives.asymmetric import ec

__all__ = ["key_set", "signed_token"]

# The same in every process, and a secret of nobody.
_KEY = ec.derive_private_key(271828, ec.SECP256R1())


class _Keys:
    async def read(self, _key_id: str) -> str:
        public = jwt.algorithms.ECAlgorithm.to_jwk(_KEY.public_key(), as_dict=True)
        return json.dumps({"keys": [{**public, "kid": "k", "alg": "ES256"}]})


def key_set() -> _Keys:
    """As `adapters.registries.Keys`."""
    return _Keys()


def signed_token(moment: datetime) -> str:
    """Of the account `b` for the audience `a`, valid at `moment`."""
    seconds = int(moment.timestamp())
    claims = {"iss": "https://accounts.google.com", "aud": "a", "email": "b", "email_verified": True}
    return jwt.encode({**claims, "iat": seconds, "exp": seconds + 60}, _KEY, algorithm="ES256", headers={"kid": "k"})
