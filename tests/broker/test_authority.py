"""What the authority signs is what TLS asks for: who it is, for whom it speaks, and for how long."""

from __future__ import annotations

import datetime as dt
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from broker.authority import Authority, Identity
from wire.errors import StoreError

A_DAY = dt.timedelta(days=1)


def read(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def test_a_devices_certificate_names_it_is_signed_and_holds_as_long_as_it_was_asked_to(tmp_path: Path) -> None:
    authority = Authority.found(tmp_path, "home", A_DAY)
    identity = authority.sign_client("kitchen")
    assert identity == Identity(tmp_path / "kitchen.pem", tmp_path / "kitchen.key")
    certificate = read(identity.certificate)
    certificate.verify_directly_issued_by(read(authority.certificate))
    assert certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == "kitchen"
    now = dt.datetime.now(dt.UTC)
    assert certificate.not_valid_before_utc < now - A_DAY / 2, "a clock that is late takes it, too"
    assert now + A_DAY / 2 < certificate.not_valid_after_utc < now + A_DAY * 1.1
    with pytest.raises(x509.ExtensionNotFound):
        certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)


def test_a_key_is_for_its_owners_eyes_alone(tmp_path: Path) -> None:
    identity = Authority.found(tmp_path, "home", A_DAY).sign_client("kitchen")
    assert stat.S_IMODE(identity.key.stat().st_mode) == 0o600


@pytest.mark.parametrize(("host", "found"), [("127.0.0.1", "127.0.0.1"), ("server.home", "server.home")])
def test_a_servers_certificate_is_of_its_address_or_its_name(tmp_path: Path, host: str, found: str) -> None:
    identity = Authority.found(tmp_path, "home", A_DAY).sign_server("broker", host)
    names = read(identity.certificate).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(name.value) for name in names] == [found]


def test_only_the_authority_itself_may_sign(tmp_path: Path) -> None:
    authority = Authority.found(tmp_path, "home", A_DAY)
    for path, may_sign in ((authority.certificate, True), (authority.sign_client("kitchen").certificate, False)):
        assert read(path).extensions.get_extension_for_class(x509.BasicConstraints).value.ca is may_sign


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"cannot write .*absent/ca.key"):
        Authority.found(tmp_path / "absent", "home", A_DAY)
