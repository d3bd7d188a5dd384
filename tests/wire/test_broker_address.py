"""TLS is what a configuration asks for, whole or not at all."""

from __future__ import annotations

import datetime as dt
import ssl
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

from broker.authority import Authority, Identity
from wire.broker_address import BrokerAddress
from wire.errors import ConfigError
from wire.settings import load_settings


class Example(msgspec.Struct, forbid_unknown_fields=True):
    broker: BrokerAddress


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.found(tmp_path, "home", dt.timedelta(days=1))


@pytest.fixture
def identity(authority: Authority) -> Identity:
    return authority.sign_client("kitchen")


def test_without_an_authority_the_link_is_plain() -> None:
    assert BrokerAddress().tls_context() is None


def test_the_broker_is_checked_and_old_protocols_are_not_spoken(authority: Authority, identity: Identity) -> None:
    context = BrokerAddress("server.home", 8883, authority.certificate, *identity).tls_context()
    assert context is not None
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert [found["subject"] for found in context.get_ca_certs()] == [((("commonName", "home"),),)], "and no other"


def test_paths_in_a_table_start_at_the_files_folder(tmp_path: Path) -> None:
    path = tmp_path / "device.toml"
    path.write_text('[broker]\nca = "ca.pem"\ncertificate = "/etc/kitchen.pem"\nkey = "keys/kitchen.key"\n')
    found = load_settings(path, Example).broker
    assert (found.ca, found.certificate) == (tmp_path / "ca.pem", Path("/etc/kitchen.pem"))
    assert found.key == tmp_path / "keys" / "kitchen.key"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('ca = "ca.pem"\ncertificate = "kitchen.pem"', "certificate and key go together"),
        ('ca = "ca.pem"\nkey = "kitchen.key"', "certificate and key go together"),
        ('certificate = "kitchen.pem"\nkey = "kitchen.key"', "a certificate without ca would go over plain TCP"),
    ],
)
def test_half_of_it_is_refused(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "device.toml"
    path.write_text(f"[broker]\n{text}\n")
    with pytest.raises(ConfigError, match=says):
        load_settings(path, Example)


def test_files_that_cannot_be_used_are_named(tmp_path: Path, authority: Authority, identity: Identity) -> None:
    rubbish = tmp_path / "rubbish.pem"
    rubbish.write_text("rubbish")
    locked = tmp_path / "locked.key"
    form = (Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    locked.write_bytes(ec.generate_private_key(ec.SECP256R1()).private_bytes(*form))
    other = authority.sign_client("attic")
    good = BrokerAddress("server.home", 8883, authority.certificate, *identity)
    for bad, says in (
        (msgspec.structs.replace(good, ca=tmp_path / "absent.pem"), r"absent.pem to speak TLS .*No such file"),
        (msgspec.structs.replace(good, ca=rubbish), r"rubbish.pem to speak TLS"),
        (msgspec.structs.replace(good, certificate=rubbish), r"rubbish.pem or .*kitchen.key to speak TLS"),
        (msgspec.structs.replace(good, key=other.key), r"kitchen.pem or .*attic.key to speak TLS"),
        (msgspec.structs.replace(good, key=locked), r"locked.key to speak TLS .*encrypted"),
    ):
        with pytest.raises(ConfigError, match=says):
            bad.tls_context()
