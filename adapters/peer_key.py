"""Make the key of an agent and use it: TLS for its children, a proof for its parents.

The key is new at each start and is never written to a disk. `cryptography` takes 8 MiB, which an agent that exchanges
no image must not keep: a process of its own makes the key (`python -m adapters.peer_key`), and this one imports the
package for the first proof.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import json
import os
import ssl
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from warmhook.peer_requests import proof_message

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ec

_SECONDS: Final = 30.0
# Peers check the key and not the dates: no clock decides whether nodes reach each other.
_BEGIN: Final = datetime(2000, 1, 1, tzinfo=UTC)
_LIFETIME: Final = timedelta(days=100 * 365)
_PUBLIC_MAX: Final = 200
"""Characters of a public key in a header; that of P-256 has 122."""
_PROOF_MAX: Final = 120
"""Characters of a proof in a header; a signature by P-256 has 96 at most."""


class KeyNotMade(Exception):
    """The process that makes the key failed."""


@dataclass(frozen=True, slots=True)
class PeerKey:
    """The key of one agent with its certificate."""

    name: str
    """As reports and hints name it: SHA-256 over `public`, in base64url without padding."""
    public: str
    """The SubjectPublicKeyInfo in DER, in base64url without padding."""
    certificate: str
    """Self-signed, in PEM."""
    private: str = field(repr=False)
    """In PEM."""


async def make_peer_key() -> PeerKey:
    """A new key. Raises `KeyNotMade`."""
    command = (sys.executable, "-m", "adapters.peer_key")
    try:
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    except OSError as error:
        raise KeyNotMade(str(error)) from error
    try:
        async with asyncio.timeout(_SECONDS):
            output, _ = await process.communicate()
        return PeerKey(**json.loads(output))
    except (TimeoutError, ValueError, TypeError) as error:
        raise KeyNotMade(f"the process that makes the key ended with {process.returncode}") from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def new_peer_key() -> PeerKey:
    """A new key, made in this process."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    # P-256: its handshakes take a tenth less time than those of Ed25519, and every crypto policy allows it.
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "warmhook-agent")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_BEGIN)
        .not_valid_after(_BEGIN + _LIFETIME)
        .sign(key, hashes.SHA256())
    )
    public = _public_der(key.public_key())
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return PeerKey(
        key_name(public),
        _encode(public),
        certificate.public_bytes(serialization.Encoding.PEM).decode("ascii"),
        private.decode("ascii"),
    )


def key_name(public: bytes) -> str:
    """How reports and hints name the key with this SubjectPublicKeyInfo in DER."""
    return _encode(hashlib.sha256(public).digest())


def certificate_key_name(certificate: bytes) -> str:
    """How reports and hints name the key of a certificate in DER; empty if it has none that can be read."""
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization

    try:
        public = x509.load_der_x509_certificate(certificate).public_key()
    except (ValueError, UnsupportedAlgorithm):
        return ""
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key_name(public.public_bytes(serialization.Encoding.DER, form))


def server_tls(key: PeerKey) -> ssl.SSLContext:
    """TLS 1.3 for the server of the agent with this key."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    # Connections last, and a ticket would be a second secret that lives as long as the process.
    context.num_tickets = 0
    # `ssl` reads keys from files only; this one is in memory.
    descriptor = os.memfd_create("warmhook-peer-key")
    try:
        os.write(descriptor, f"{key.certificate}\n{key.private}".encode("ascii"))
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)
    return context


def sign_proof(key: PeerKey, parent: str, token: str) -> str:
    """The proof that whoever sends `token` to the agent with the key named `parent` has this key."""
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    private = serialization.load_pem_private_key(key.private.encode("ascii"), password=None)
    if not isinstance(private, ec.EllipticCurvePrivateKey):
        raise TypeError("the key of an agent is on an elliptic curve")
    return _encode(private.sign(proof_message(parent, token), ec.ECDSA(hashes.SHA256())))


def read_proof(public: str, proof: str, parent: str, token: str) -> str:
    """The name of the key that made the proof; empty if it proves nothing. All but `parent` is hostile input."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    der, signature = _decode(public, _PUBLIC_MAX), _decode(proof, _PROOF_MAX)
    key = _read_public(der)
    if key is None:
        return ""
    try:
        key.verify(signature, proof_message(parent, token), ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return ""
    return key_name(der)


def _read_public(der: bytes) -> ec.EllipticCurvePublicKey | None:
    """A public key on P-256 in the one form that an agent sends."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        key = serialization.load_der_public_key(der)
    except (ValueError, UnsupportedAlgorithm):
        return None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        return None
    return key if _public_der(key) == der else None


def _public_der(key: ec.EllipticCurvePublicKey) -> bytes:
    from cryptography.hazmat.primitives import serialization

    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def _decode(text: str, limit: int) -> bytes:
    """Empty if it is too long or not in base64url."""
    if len(text) > limit:
        return b""
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return b""


if __name__ == "__main__":
    made = new_peer_key()
    fields = {name: getattr(made, name) for name in PeerKey.__slots__}
    sys.stdout.write(json.dumps(fields))
