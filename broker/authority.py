"""Certificates for a fleet: one authority of its own signs those of the broker, the aggregator and the devices.

Elliptic-curve keys (P-256), so that small devices and thousands of connections pay little for a handshake. The common name is
who somebody is: the broker takes it for the user's name.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from wire.durable import storage_error

__all__ = ["Authority", "Identity"]

BACKDATED = dt.timedelta(days=1)


class Identity(NamedTuple):
    """A certificate and its private key, PEM files."""

    certificate: Path
    key: Path


class Authority:
    """A new certificate authority.

    Args:
        folder: Where certificates and keys are written; keys for their owner's eyes alone.
        name: Its common name.
        valid_for: How long what it signs holds, from a day before now on: some clocks are late.

    Raises:
        StoreError: If the disk refuses.
    """

    def __init__(self, folder: Path, name: str, valid_for: dt.timedelta) -> None:
        """Make its key, and sign its own certificate."""
        self.certificate = folder / "ca.pem"
        self._folder = folder
        self._valid_for = valid_for
        self._name = _name(name)
        self._key = ec.generate_private_key(ec.SECP256R1())
        signs = x509.KeyUsage(
            digital_signature=False, content_commitment=False, key_encipherment=False, data_encipherment=False,
            key_agreement=False, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False,
        )  # fmt: skip
        builder = self._begin(self._name, self._key.public_key())
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        own = builder.add_extension(signs, critical=True).sign(self._key, hashes.SHA256())
        _write(self.certificate, own.public_bytes(Encoding.PEM))

    def sign_server(self, name: str, host: str) -> Identity:
        """Return the identity of a server that is reached at this host name or address."""
        try:
            place: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(host))
        except ValueError:
            place = x509.DNSName(host)
        return self._sign(name, ExtendedKeyUsageOID.SERVER_AUTH, x509.SubjectAlternativeName([place]))

    def sign_client(self, name: str) -> Identity:
        """Return the identity of an aggregator or a device."""
        return self._sign(name, ExtendedKeyUsageOID.CLIENT_AUTH)

    def _sign(self, name: str, usage: x509.ObjectIdentifier, *extensions: x509.ExtensionType) -> Identity:
        key = ec.generate_private_key(ec.SECP256R1())
        builder = self._begin(_name(name), key.public_key())
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        for extension in (x509.ExtendedKeyUsage([usage]), *extensions):
            builder = builder.add_extension(extension, critical=False)
        identity = Identity(self._folder / f"{name}.pem", self._folder / f"{name}.key")
        _write(identity.certificate, builder.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM))
        _write(identity.key, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return identity

    def _begin(self, subject: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        now = dt.datetime.now(dt.UTC)
        authority = self._key.public_key()
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - BACKDATED)
            .not_valid_after(now + self._valid_for)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority), critical=False)
        )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _write(path: Path, data: bytes) -> None:
    try:
        path.touch(mode=0o600)
        path.write_bytes(data)
    except OSError as error:
        raise storage_error(path, error) from error
