"""The key that signs plans is for its owner's eyes alone, whole or not there, and what OpenSSL reads and writes."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_public_key,
)

from aggregator.commands import app
from aggregator.signing_key import encode_public_key, load_signing_key, make_signing_key
from wire.errors import ConfigError, StoreError

FROM_OPENSSL = """-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC
-----END PRIVATE KEY-----
"""  # of RFC 8410, section 10.3
ITS_PUBLIC_HALF = """-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=
-----END PUBLIC KEY-----
"""


def write_key(path: Path, data: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(data)
    path.chmod(mode)
    return path


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077])
def test_a_new_key_is_its_owners_alone_whatever_the_mask(tmp_path: Path, mask: int) -> None:
    private, public = tmp_path / "signing.key", tmp_path / "aggregator.pub"
    before = os.umask(mask)
    try:
        make_signing_key(private, public)
    finally:
        os.umask(before)
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    key = load_signing_key(private)
    assert public.read_bytes() == encode_public_key(key)
    assert load_pem_public_key(public.read_bytes()) == key.public_key()
    assert private.read_bytes() not in public.read_bytes()


def test_two_new_keys_differ(tmp_path: Path) -> None:
    for name in "ab":
        make_signing_key(tmp_path / f"{name}.key", tmp_path / f"{name}.pub")
    assert (tmp_path / "a.pub").read_bytes() != (tmp_path / "b.pub").read_bytes()


def test_a_key_that_devices_may_trust_is_never_overwritten(tmp_path: Path) -> None:
    private, public = tmp_path / "signing.key", tmp_path / "aggregator.pub"
    make_signing_key(private, public)
    before = private.read_bytes(), public.read_bytes()
    with pytest.raises(ConfigError, match=r"signing\.key is there already"):
        make_signing_key(private, public)
    assert (private.read_bytes(), public.read_bytes()) == before


def test_a_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"nowhere/signing\.key"):
        make_signing_key(tmp_path / "nowhere" / "signing.key", tmp_path / "aggregator.pub")


def test_what_openssl_writes_is_read(tmp_path: Path) -> None:
    key = load_signing_key(write_key(tmp_path / "signing.key", FROM_OPENSSL.encode()))
    assert encode_public_key(key) == ITS_PUBLIC_HALF.encode()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610, 0o644, 0o666, 0o777])
def test_a_key_that_others_may_read_or_write_is_refused_with_what_to_do(tmp_path: Path, mode: int) -> None:
    path = write_key(tmp_path / "signing.key", FROM_OPENSSL.encode(), mode)
    with pytest.raises(ConfigError, match=f"mode {mode:04o}.*chmod 600 {path}"):
        load_signing_key(path)


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_a_key_that_its_owner_alone_may_read_is_taken(tmp_path: Path, mode: int) -> None:
    key = load_signing_key(write_key(tmp_path / "signing.key", FROM_OPENSSL.encode(), mode))
    assert encode_public_key(key) == ITS_PUBLIC_HALF.encode()


def pem(key: Ed25519PrivateKey | ec.EllipticCurvePrivateKey, password: bytes = b"") -> bytes:
    encryption = BestAvailableEncryption(password) if password else NoEncryption()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "no private key in PEM"),
        (b"\x00\xff" * 20, "no private key in PEM"),
        (ITS_PUBLIC_HALF.encode(), "no private key in PEM"),
        (FROM_OPENSSL.encode()[:60], "no private key in PEM"),
        (pem(Ed25519PrivateKey.generate(), b"secret"), "without a password"),
        (pem(ec.generate_private_key(ec.SECP256R1())), "not of Ed25519"),
    ],
    ids=["empty", "noise", "public half", "cut short", "with a password", "of another kind"],
)
def test_what_is_no_signing_key_is_refused_with_what_to_do(tmp_path: Path, data: bytes, why: str) -> None:
    path = write_key(tmp_path / "signing.key", data)
    with pytest.raises(ConfigError, match=f"{why}.*fedlag aggregator new-key"):
        load_signing_key(path)


def test_a_key_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"signing\.key: No such file"):
        load_signing_key(tmp_path / "signing.key")


def test_the_command_makes_the_pair_and_says_where_each_half_goes(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    private, public = tmp_path / "signing.key", tmp_path / "aggregator.pub"
    app(["new-key", str(private), str(public)], standalone_mode=False)
    assert public.read_bytes() == encode_public_key(load_signing_key(private))
    assert f"{public} goes to each device" in capfd.readouterr().out


def test_the_public_half_is_printed_for_the_devices(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    write_key(tmp_path / "signing.key", FROM_OPENSSL.encode())
    config = tmp_path / "aggregator.toml"
    config.write_text('fleet = "home"\nprogram = "program"\nfolder = "state"\n')
    with pytest.raises(ConfigError, match="names no signing_key"):
        app(["public-key", str(config)], standalone_mode=False)
    config.write_text('signing_key = "signing.key"\n' + config.read_text())
    app(["public-key", str(config)], standalone_mode=False)
    assert capfdbinary.readouterr().out == ITS_PUBLIC_HALF.encode()
