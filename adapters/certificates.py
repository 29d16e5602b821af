"""Create and read the certificate that the API server trusts when it calls `web`."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LIFETIME: Final = timedelta(days=90)
# Clocks of nodes differ a little, and a certificate that is not valid yet is rejected.
_EARLIER: Final = timedelta(hours=1)


class NotACertificate(ValueError):
    """The text holds no certificate in PEM."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate with its key and the CA that signed it, all in PEM."""

    authority: bytes
    certificate: bytes
    key: bytes


def make_pair(names: Sequence[str], now: datetime) -> Pair:
    """A certificate for these hosts (DNS names or IP addresses), signed by its own CA.

    The CA signs nothing else: its key is discarded at once, so nobody can steal it.
    """
    authority_key = ec.generate_private_key(ec.SECP256R1())
    # CAs differ in name; otherwise a verifier with two of them may use the wrong one.
    serial = x509.random_serial_number()
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"warmhook {serial % 2**32:08x}")])
    authority = (
        _begun(subject, subject, now)
        .public_key(authority_key.public_key())
        .serial_number(serial)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(authority_key.public_key()), critical=False)
        .add_extension(_usage(signs=True), critical=True)
        .sign(authority_key, hashes.SHA256())
    )
    key = ec.generate_private_key(ec.SECP256R1())
    leaf = (
        _begun(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "warmhook-web")]), subject, now)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([_name(name) for name in names]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    return Pair(
        authority=authority.public_bytes(pem),
        certificate=leaf.public_bytes(pem),
        key=key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    )


def wants_rotation(certificate: bytes, names: Sequence[str], now: datetime) -> bool:
    """Whether two thirds of its lifetime are over, or it does not name all hosts. Raises `NotACertificate`."""
    leaf = _read(certificate)[0]
    begin, end = leaf.not_valid_before_utc, leaf.not_valid_after_utc
    try:
        named = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return True
    return now >= begin + (end - begin) * 2 / 3 or not {_name(name) for name in names} <= set(named)


def expiry(certificate: bytes) -> datetime:
    """When it expires; of a chain, its first certificate. Raises `NotACertificate`."""
    return _read(certificate)[0].not_valid_after_utc


def belong_together(authorities: bytes, certificate: bytes, key: bytes) -> bool:
    """Whether the key belongs to the certificate, and a CA or another certificate of its chain signed it.

    Raises `NotACertificate`.
    """
    leaf = _read(certificate)[0]
    try:
        own = serialization.load_pem_private_key(key, password=None).public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return False
    return own == leaf.public_key() and has_signed(authorities, certificate)


def has_signed(authorities: bytes, certificate: bytes) -> bool:
    """Whether a CA or another certificate of the chain signed the first certificate. Raises `NotACertificate`."""
    leaf, *chain = _read(certificate)
    return any(_signed(issuer, leaf) for issuer in [*_read(authorities), *chain])


def beginning(certificate: bytes) -> datetime:
    """From when on it is valid; of a chain, its first certificate. Raises `NotACertificate`."""
    return _read(certificate)[0].not_valid_before_utc


def still_valid(authorities: bytes, now: datetime) -> bytes:
    """The CAs that have not expired; empty if none is readable."""
    try:
        kept = [authority for authority in _read(authorities) if authority.not_valid_after_utc > now]
    except NotACertificate:
        return b""
    return b"".join(authority.public_bytes(serialization.Encoding.PEM) for authority in kept)


def last_end(certificates: bytes) -> datetime:
    """When the last of these certificates ends. Raises `NotACertificate`, also if there is none."""
    ends = [each.not_valid_after_utc for each in _read(certificates)]
    if not ends:
        raise NotACertificate("there is no certificate")
    return max(ends)


def _signed(authority: x509.Certificate, leaf: x509.Certificate) -> bool:
    try:
        leaf.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _begun(subject: x509.Name, issuer: x509.Name, now: datetime) -> x509.CertificateBuilder:
    begin = now.astimezone(UTC).replace(microsecond=0) - _EARLIER
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .not_valid_before(begin)
        .not_valid_after(begin + LIFETIME)
    )


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def _name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _read(pem: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise NotACertificate(str(error)) from error
