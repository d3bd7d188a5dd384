"""The key that signs plans, on disk: a PEM file (PKCS #8, Ed25519) for its owner's eyes alone, and its public half beside it.

OpenSSL reads and writes the same files: ``openssl genpkey -algorithm ed25519``, ``openssl pkey -pubout``.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from wire.durable import write_durably
from wire.errors import ConfigError

__all__ = ["encode_public_key", "load_signing_key", "make_signing_key"]

OTHERS = stat.S_IRWXG | stat.S_IRWXO


def make_signing_key(private: Path, public: Path) -> None:
    """Write a new key pair: the private half for its owner's eyes alone from the first byte on, the public half for devices.

    Args:
        private: Where the private key goes; becomes ``signing_key`` in the aggregator's configuration.
        public: Where the public key goes; becomes ``key`` in the table ``[aggregator]`` of every device's configuration.

    Raises:
        ConfigError: If ``private`` is there already: the devices of a fleet may trust it.
        StoreError: If the disk refuses.
    """
    if os.path.lexists(private):
        raise ConfigError(f"{private} is there already, and devices may trust it; keep it, or move it away")
    key = Ed25519PrivateKey.generate()
    write_durably(private, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), 0o600)
    write_durably(public, encode_public_key(key))


def load_signing_key(path: Path) -> Ed25519PrivateKey:
    """Return the key in a PEM file.

    Raises:
        ConfigError: If the file cannot be read, anyone but its owner may read or write it, or it is no Ed25519 key without a
            password.
    """
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            data = file.read()
    except OSError as error:
        raise ConfigError(f"cannot read the signing_key {path}: {error.strerror}; name a PEM file") from error
    if mode & OTHERS:
        raise ConfigError(
            f"the signing_key {path} is open to others (mode {mode:04o}), and who has it can make devices run any code: "
            f"`chmod 600 {path}`, and make a new one if others had access"
        )
    try:
        key = load_pem_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigError(
            f"the signing_key {path} is no private key in PEM without a password; "
            f"make one with `fedlag aggregator new-key`"
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"the signing_key {path} is not of Ed25519; make one with `fedlag aggregator new-key`")
    return key


def encode_public_key(key: Ed25519PrivateKey) -> bytes:
    """Return the public half as devices read it: PEM, SubjectPublicKeyInfo."""
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
