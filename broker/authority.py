"""Certificates for a fleet: one authority of its own signs those of the broker, the aggregator and the devices.

Elliptic-curve keys (P-256), so that small devices and thousands of connections pay little for a handshake. The common name is
who somebody is: the broker takes it for the user's name.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from wire.durable import write_durably
from wire.errors import ConfigError

__all__ = ["Authority", "Identity"]

BACKDATED = dt.timedelta(days=1)
LONGEST_NAME = 64  # X.509's bound of a common name


class Identity(NamedTuple):
    """A certificate and its private key, PEM files."""

    certificate: Path
    key: Path


class Authority:
    """A certificate authority in a folder: ``ca.pem``, its key ``ca.key`` and, once it was asked for, ``crl.pem``.

    ``found`` makes a new one, ``load`` takes up one that was made.

    Args:
        folder: Where certificates and keys are; all are for their owner's eyes alone.
        own: Its own certificate.
        key: Its private key.
    """

    def __init__(self, folder: Path, own: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        """Take up what ``found`` or ``load`` has; nothing is written."""
        self.certificate = folder / "ca.pem"
        self.revocations = folder / "crl.pem"
        self._folder = folder
        self._own = own
        self._key = key

    @classmethod
    def found(cls, folder: Path, name: str, valid_for: dt.timedelta) -> Authority:
        """Make a new authority.

        Args:
            folder: An existing folder.
            name: Its common name.
            valid_for: How long it and what it signs hold, from a day before now on: some clocks are late.

        Raises:
            StoreError: If the disk refuses.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        signs = x509.KeyUsage(
            digital_signature=False, content_commitment=False, key_encipherment=False, data_encipherment=False,
            key_agreement=False, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False,
        )  # fmt: skip
        end = dt.datetime.now(dt.UTC) + valid_for
        builder = _begin(_name(name), _name(name), key.public_key(), key.public_key(), end)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        own = builder.add_extension(signs, critical=True).sign(key, hashes.SHA256())
        _write_key(folder / "ca.key", key)
        _write(folder / "ca.pem", own.public_bytes(Encoding.PEM))
        return cls(folder, own, key)

    @classmethod
    def load(cls, folder: Path) -> Authority:
        """Return the authority that was made in this folder, to sign more.

        Raises:
            ConfigError: If its files are absent, or do not belong to each other.
        """
        path = folder / "ca.pem"
        try:
            own = x509.load_pem_x509_certificate(path.read_bytes())
            path = folder / "ca.key"
            key = load_pem_private_key(path.read_bytes(), password=None)
        except OSError as error:
            raise ConfigError(f"cannot read {path}: {error.strerror}; name a fleet that `fedlag init` made") from error
        except (ValueError, TypeError) as error:
            raise ConfigError(f"{path} is damaged; put it back from a backup") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != own.public_key():
            raise ConfigError(f"{path} is not the key of {folder / 'ca.pem'}; put both back from one backup")
        return cls(folder, own, key)

    def sign_server(self, name: str, *hosts: str) -> Identity:
        """Return the identity of a server that is reached at these host names and addresses.

        Raises:
            ConfigError: If a host is neither a name nor an address.
            StoreError: If the disk refuses.
        """
        places = x509.SubjectAlternativeName([_place(host) for host in hosts])
        return self._sign(name, self._folder / name, ExtendedKeyUsageOID.SERVER_AUTH, None, places)

    def sign_client(self, name: str, stem: Path | None = None, valid_for: dt.timedelta | None = None) -> Identity:
        """Return the identity of an aggregator or a device, with a new key.

        Args:
            name: Its common name, at most 64 characters; ``wire.topics.user_of`` says whose is which.
            stem: Its files, without their ending; by default its name in the authority's folder.
            valid_for: How long it holds; absent: as long as the authority.

        Raises:
            ConfigError: If the name is too long.
            StoreError: If the disk refuses.
        """
        end = None if valid_for is None else dt.datetime.now(dt.UTC) + valid_for
        return self._sign(name, stem or self._folder / name, ExtendedKeyUsageOID.CLIENT_AUTH, end)

    def revoke(self, *certificates: Path) -> Path:
        """Return the list of all certificates that hold no longer, signed, with these added; with none it may be empty.

        The list itself holds as long as the authority: OpenSSL lets nobody in on a list whose time is over.

        Raises:
            ConfigError: If a certificate, or the list of before, cannot be read.
            StoreError: If the disk refuses.
        """
        now = dt.datetime.now(dt.UTC)
        serials = {_certificate(path).serial_number: now for path in certificates}
        if self.revocations.exists():
            serials |= {one.serial_number: one.revocation_date_utc for one in _revoked(self.revocations)}
        end = self._own.not_valid_after_utc
        builder = x509.CertificateRevocationListBuilder(self._own.subject, now - BACKDATED, end)
        for serial, when in sorted(serials.items()):
            revoked = x509.RevokedCertificateBuilder(serial, when).build()
            builder = builder.add_revoked_certificate(revoked)
        _write(self.revocations, builder.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM))
        return self.revocations

    def _sign(
        self,
        name: str,
        stem: Path,
        usage: x509.ObjectIdentifier,
        end: dt.datetime | None,
        *extensions: x509.ExtensionType,
    ) -> Identity:
        if len(name) > LONGEST_NAME:
            raise ConfigError(
                f"the certificate's name {name!r} has {len(name)} characters, at most 64: choose a shorter"
            )
        key = ec.generate_private_key(ec.SECP256R1())
        last = self._own.not_valid_after_utc
        end = last if end is None else min(end, last)
        builder = _begin(_name(name), self._own.subject, key.public_key(), self._key.public_key(), end)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        for extension in (x509.ExtendedKeyUsage([usage]), *extensions):
            builder = builder.add_extension(extension, critical=False)
        identity = Identity(stem.with_name(f"{stem.name}.pem"), stem.with_name(f"{stem.name}.key"))
        _write(identity.certificate, builder.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM))
        _write_key(identity.key, key)
        return identity


def _begin(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    authority: ec.EllipticCurvePublicKey,
    end: dt.datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(dt.datetime.now(dt.UTC) - BACKDATED)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority), critical=False)
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _place(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        return x509.DNSName(host)
    except ValueError as error:
        raise ConfigError(f"{host!r} is neither a host's name in ASCII nor an address; correct it") from error


def _certificate(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read the certificate {path}: {error}; name a PEM file") from error


def _revoked(path: Path) -> Sequence[x509.RevokedCertificate]:
    try:
        return list(x509.load_pem_x509_crl(path.read_bytes()))
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {path}: {error}; put it back from a backup") from error


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    _write(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def _write(path: Path, data: bytes) -> None:
    write_durably(path, data, 0o600)
