"""What the authority signs is what TLS asks for: who it is, for whom it speaks, and for how long."""

from __future__ import annotations

import datetime as dt
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from broker.authority import Authority, Identity
from wire.errors import ConfigError, StoreError

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


def test_a_servers_certificate_is_of_all_its_addresses_and_names(tmp_path: Path) -> None:
    hosts = ("127.0.0.1", "::1", "server.home")
    identity = Authority.found(tmp_path, "home", A_DAY).sign_server("broker", *hosts)
    names = read(identity.certificate).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(name.value) for name in names] == [*hosts]


def test_a_host_that_cannot_be_named_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="k\u00fcche"):
        Authority.found(tmp_path, "home", A_DAY).sign_server("broker", "k\u00fcche")


def test_an_authority_that_is_loaded_signs_as_the_one_that_was_made(tmp_path: Path) -> None:
    made = Authority.found(tmp_path, "home", A_DAY)
    identity = Authority.load(tmp_path).sign_client("home/d/kitchen", tmp_path / "kitchen")
    assert identity == Identity(tmp_path / "kitchen.pem", tmp_path / "kitchen.key")
    read(identity.certificate).verify_directly_issued_by(read(made.certificate))


def test_nothing_that_it_signs_outlives_it(tmp_path: Path) -> None:
    authority = Authority.found(tmp_path, "home", A_DAY)
    end = read(authority.certificate).not_valid_after_utc
    assert read(authority.sign_client("kitchen", valid_for=100 * A_DAY).certificate).not_valid_after_utc == end
    assert read(authority.sign_client("attic", valid_for=A_DAY / 2).certificate).not_valid_after_utc < end


def revoked(authority: Authority) -> set[int]:
    found = x509.load_pem_x509_crl(authority.revocations.read_bytes())
    assert found.is_signature_valid(authority._key.public_key())
    assert found.next_update_utc == read(authority.certificate).not_valid_after_utc, "a list that ends lets nobody in"
    return {one.serial_number for one in found}


def test_a_certificate_that_was_revoked_stays_so_and_none_is_at_first(tmp_path: Path) -> None:
    authority = Authority.found(tmp_path, "home", A_DAY)
    authority.revoke()
    assert revoked(authority) == set()
    paths = [authority.sign_client(name).certificate for name in ("kitchen", "attic")]
    for path in paths:
        Authority.load(tmp_path).revoke(path)
    assert revoked(authority) == {read(path).serial_number for path in paths}


def test_what_cannot_be_revoked_is_named_and_the_list_stays(tmp_path: Path) -> None:
    authority = Authority.found(tmp_path, "home", A_DAY)
    before = authority.revoke().read_bytes()
    with pytest.raises(ConfigError, match=r"cannot read the certificate .*absent.pem"):
        authority.revoke(tmp_path / "absent.pem")
    assert authority.revocations.read_bytes() == before
    authority.revocations.write_bytes(b"damaged")
    with pytest.raises(ConfigError, match=r"cannot read .*crl.pem"):
        authority.revoke()


@pytest.mark.parametrize("name", ["ca.pem", "ca.key"])
def test_an_authority_whose_files_are_absent_damaged_or_not_of_a_pair_is_refused(tmp_path: Path, name: str) -> None:
    folder, other = tmp_path / "one", tmp_path / "other"
    for place in (folder, other):
        place.mkdir()
        Authority.found(place, "home", A_DAY)
    path = folder / name
    path.write_bytes((other / name).read_bytes())
    with pytest.raises(ConfigError, match=r"ca.key is not the key of .*ca.pem; put both back"):
        Authority.load(folder)
    path.write_bytes(b"damaged")
    with pytest.raises(ConfigError, match=rf"{name} is damaged; put it back"):
        Authority.load(folder)
    path.unlink()
    with pytest.raises(ConfigError, match=rf"cannot read .*{name}: No such file"):
        Authority.load(folder)


def test_a_name_that_no_certificate_can_hold_is_refused_before_a_key_is_made(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has 65 characters, at most 64"):
        Authority.found(tmp_path, "home", A_DAY).sign_client("a" * 65, tmp_path / "long")
    assert not (tmp_path / "long.key").exists()


def test_only_the_authority_itself_may_sign(tmp_path: Path) -> None:
    authority = Authority.found(tmp_path, "home", A_DAY)
    for path, may_sign in ((authority.certificate, True), (authority.sign_client("kitchen").certificate, False)):
        assert read(path).extensions.get_extension_for_class(x509.BasicConstraints).value.ca is may_sign


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"cannot write .*absent/ca.key"):
        Authority.found(tmp_path / "absent", "home", A_DAY)
