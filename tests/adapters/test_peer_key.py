"""The key of an agent is its own, and proves who sends a request to one parent."""

from __future__ import annotations

import asyncio
import base64
import ssl

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from adapters.peer_key import (
    PeerKey,
    certificate_key_name,
    key_name,
    make_peer_key,
    new_peer_key,
    read_proof,
    server_tls,
    sign_proof,
)
from warmhook.hints import KEY_PATTERN

PARENT, TOKEN = "p" * 43, "a.b.c"
P256 = bytes.fromhex("2a8648ce3d030107")
"""The object identifier of the curve, as it is in a certificate."""


@pytest.fixture(scope="module")
def key() -> PeerKey:
    return new_peer_key()


def test_the_certificate_is_of_the_key_that_reports_name(key: PeerKey) -> None:
    assert KEY_PATTERN.fullmatch(key.name)
    assert certificate_key_name(ssl.PEM_cert_to_DER_cert(key.certificate)) == key.name
    assert key_name(base64.urlsafe_b64decode(key.public + "==")) == key.name
    certificate = x509.load_pem_x509_certificate(key.certificate.encode())
    certificate.verify_directly_issued_by(certificate)


def test_a_certificate_that_cannot_be_read_names_no_key(key: PeerKey) -> None:
    der = ssl.PEM_cert_to_DER_cert(key.certificate)
    other_curve = der.replace(P256, P256[:-1] + b"\x06")
    assert other_curve != der
    for certificate in (b"", b"no certificate", der[:-1], other_curve):
        assert certificate_key_name(certificate) == ""


def test_each_key_is_another_one(key: PeerKey) -> None:
    assert new_peer_key().name != key.name


def test_a_proof_names_the_key_that_made_it(key: PeerKey) -> None:
    proof = sign_proof(key, PARENT, TOKEN)
    assert read_proof(key.public, proof, PARENT, TOKEN) == key.name


def other_public(private: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> str:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    der = private.public_key().public_bytes(serialization.Encoding.DER, form)
    return base64.urlsafe_b64encode(der).rstrip(b"=").decode()


def test_a_proof_for_another_parent_another_token_or_by_another_key_proves_nothing(key: PeerKey) -> None:
    proof = sign_proof(key, PARENT, TOKEN)
    assert read_proof(key.public, proof, "q" * 43, TOKEN) == ""
    assert read_proof(key.public, proof, PARENT, "a.b.d") == ""
    assert read_proof(new_peer_key().public, proof, PARENT, TOKEN) == ""
    for public in (
        "",
        "A" * 122,
        "A" * 1000,
        "\xff",
        key.public + "AAAA",
        other_public(ec.generate_private_key(ec.SECP384R1())),
        other_public(rsa.generate_private_key(65537, 1024)),
    ):
        assert read_proof(public, proof, PARENT, TOKEN) == ""
    for other in ("", proof[:-4], "A" * 96, "A" * 1000, "=", "\xff"):
        assert read_proof(key.public, other, PARENT, TOKEN) == ""


def test_the_private_key_is_in_no_log(key: PeerKey) -> None:
    assert "PRIVATE" in key.private
    assert key.private not in repr(key)
    assert "PRIVATE" not in repr(key)


def test_a_server_with_the_key_speaks_tls_1_3_and_remembers_no_session(key: PeerKey) -> None:
    context = server_tls(key)
    assert context.minimum_version == ssl.TLSVersion.TLSv1_3
    assert context.num_tickets == 0


@pytest.mark.slow
def test_a_process_of_its_own_makes_the_key() -> None:
    made = asyncio.run(make_peer_key())
    assert certificate_key_name(ssl.PEM_cert_to_DER_cert(made.certificate)) == made.name
    assert read_proof(made.public, sign_proof(made, PARENT, TOKEN), PARENT, TOKEN) == made.name
    server_tls(made)
