"""A certificate authority of the tests, and certificates for servers on this machine."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey


@dataclass(frozen=True)
class Certificate:
    """What a server needs to speak TLS."""

    path: Path  # PEM, the certificate
    key: Path  # PEM, its private key, 0600


class Authority:
    """Signs certificates for 127.0.0.1 and localhost; whoever trusts `ca` trusts them."""

    def __init__(self, folder: Path, name: str = "tests") -> None:
        """Make a fresh authority in `folder`."""
        from cryptography import x509

        self.folder, self.name = folder, name
        folder.mkdir(parents=True, exist_ok=True)
        self._key = _new_key()
        self._subject = _named(f"authority of the {name}")
        made = (
            _begun(self._subject, self._subject, self._key, days=2)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs=True), critical=True)
        )
        self.ca = folder / "ca.pem"  # what clients are given to trust
        self.ca.write_bytes(_signed(made, self._key))

    def issue(
        self,
        name: str,  # of the server, also of its files
        *,
        days: float = 1,  # until it expires; negative: it has expired
        hosts: tuple[str, ...] = ("localhost", "127.0.0.1"),
        owner: int | None = None,  # user id that the private key shall belong to
    ) -> Certificate:
        """Make a certificate for a server."""
        from cryptography import x509
        from cryptography.hazmat.primitives import serialization as to

        key = _new_key()
        made = (
            _begun(_named(name), self._subject, key, days=days)
            .add_extension(x509.SubjectAlternativeName([_host(h) for h in hosts]), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs=False), critical=True)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False
            )
        )
        found = Certificate(self.folder / f"{name}.pem", self.folder / f"{name}.key")
        found.path.write_bytes(_signed(made, self._key))
        found.key.touch(mode=0o600)
        found.key.write_bytes(key.private_bytes(to.Encoding.PEM, to.PrivateFormat.PKCS8, to.NoEncryption()))
        if owner is not None:
            os.chown(found.key, owner, -1)
        return found


def _new_key() -> EllipticCurvePrivateKey:
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.generate_private_key(ec.SECP256R1())


def _named(name: str) -> x509.Name:
    from cryptography import x509

    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])


def _host(host: str) -> x509.GeneralName:
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _begun(
    subject: x509.Name, issuer: x509.Name, key: EllipticCurvePrivateKey, *, days: float
) -> x509.CertificateBuilder:
    from cryptography import x509

    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=30))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _usage(*, signs: bool) -> x509.KeyUsage:
    from cryptography import x509

    off = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only"),
        False,
    )
    return x509.KeyUsage(
        digital_signature=not signs, key_cert_sign=signs, crl_sign=signs, decipher_only=False, **off
    )


def _signed(made: x509.CertificateBuilder, key: EllipticCurvePrivateKey) -> bytes:
    from cryptography.hazmat.primitives import hashes, serialization

    return made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
