"""``fedlag init`` makes a whole folder or none, shows no secret, and what it writes is what the product reads."""

from __future__ import annotations

import re
import shutil
import stat
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from cryptography import x509

import broker.founding.folder
from aggregator.config import AggregatorConfig, AveragingSettings, RoundSettings, SelectorSettings
from aggregator.signing_key import encode_public_key, load_signing_key
from broker.authority import Authority
from broker.founding.folder import found_fleet
from broker.founding.hosts import names_and_addresses
from wire.broker_address import BrokerAddress
from wire.errors import ConfigError, StoreError
from wire.messages import TrainingSettings
from wire.settings import load_settings

ROOT = Path(__file__).parents[2]
HOSTS = ["nas.lan", "127.0.0.1"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("founding") / "home"
    found_fleet(place, "home", HOSTS, 8883)
    return place


def run_init(*arguments: str, here: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fedlag", "init", *arguments]
    return subprocess.run(command, cwd=here, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False)


def test_the_aggregators_configuration_decodes_to_the_defaults_and_to_keys_that_fit_the_broker(folder: Path) -> None:
    config = load_settings(folder / "aggregator.toml", AggregatorConfig)
    assert (config.fleet, config.broker.port) == ("home", 8883)
    assert config.rounds == RoundSettings()
    assert config.averaging == AveragingSettings()
    assert config.training == TrainingSettings()
    assert config.selector == SelectorSettings()
    assert config.broker.tls_context() is not None


def test_the_aggregators_configuration_mentions_every_option_those_that_are_off_too(folder: Path) -> None:
    text = (folder / "aggregator.toml").read_text()
    whole = re.sub(r"^# (?=\w+ = )", "", text, flags=re.MULTILINE)
    explained = tomllib.loads(whole)
    assert set(explained) == set(AggregatorConfig.__struct_fields__)
    for name, kind in (("rounds", RoundSettings), ("averaging", AveragingSettings), ("broker", BrokerAddress)):
        assert set(explained[name]) == set(kind.__struct_fields__)
    assert set(explained["selector"]) == set(SelectorSettings.__struct_fields__)
    assert set(explained["training"]) == set(TrainingSettings.__struct_fields__) - {"seed"}
    (folder / "whole.toml").write_text(whole)
    load_settings(folder / "whole.toml", AggregatorConfig)
    options = [line for line in text.splitlines() if re.match(r"(# )?\w+ = ", line)]
    plain = {"fleet", "port", "certificate", "key", "learning_rate", "batch_size"}
    assert {line.split()[0] for line in options if "  # " not in line} <= plain, "the others are explained"


def test_it_explains_the_options_that_the_documentation_explains(folder: Path) -> None:
    blocks = re.findall(r"```toml\n(.*?)```", (ROOT / "docs/configuration.md").read_text(), flags=re.DOTALL)
    text = (folder / "aggregator.toml").read_text()
    for table, options in tomllib.loads(blocks[1]).items():
        for name in options if isinstance(options, dict) else [table]:
            assert re.search(rf"^(# )?\[?(\w+\.)?{name}\b", text, re.MULTILINE), name


def test_only_its_owner_may_look_in_and_every_key_is_of_its_certificate(folder: Path) -> None:
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (folder / "keys").iterdir()}
    assert modes.pop("signing.pub")  # goes to every device
    assert set(modes.values()) == {0o600}
    Authority.load(folder / "keys")
    read = x509.load_pem_x509_certificate
    names = {name: read((folder / f"keys/{name}.pem").read_bytes()) for name in ("ca", "broker", "aggregator")}
    assert {name: it.subject.rfc4514_string() for name, it in names.items()} == {
        "ca": "CN=FedLAG fleet home",
        "broker": "CN=broker",
        "aggregator": "CN=home",
    }
    for name in ("broker", "aggregator"):
        names[name].verify_directly_issued_by(names["ca"])


def test_the_aggregator_signs_with_the_key_whose_public_half_goes_to_the_devices(folder: Path) -> None:
    key = load_signing_key(folder / "keys/signing.key")
    assert (folder / "keys/signing.pub").read_bytes() == encode_public_key(key)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
@pytest.mark.parametrize("part", ["broker", "aggregator", "edge"])
def test_systemd_finds_no_fault_with_the_units(folder: Path, part: str, tmp_path: Path) -> None:
    text = (folder / f"systemd/fedlag-home-{part}.service").read_text()
    program = re.findall(r"^ExecStart=(\S+)", text, re.MULTILINE)[0]
    if not Path(program).exists():  # verify looks for it
        text = text.replace(program, sys.executable)
    unit = tmp_path / f"fedlag-home-{part}.service"
    unit.write_text(text)
    verified = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    said = [line for line in verified.stderr.splitlines() if "fedlag-home" in line]
    assert (verified.returncode, said) == (0, [])
    for directive in ("Restart=always", "NoNewPrivileges=yes", "ProtectSystem=strict", "PrivateTmp=yes"):
        assert directive in text.splitlines()


def test_a_folder_with_a_space_and_a_percent_sign_is_quoted_for_systemd(tmp_path: Path) -> None:
    place = tmp_path / "my 100% home"
    found_fleet(place, "home", HOSTS, 8883)
    text = (place / "systemd/fedlag-home-broker.service").read_text()
    assert f'ReadWritePaths="{str(place).replace("%", "%%")}/mosquitto"\n' in text
    assert f"WorkingDirectory={str(place).replace('%', '%%')}\n" in text


def test_what_exists_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    with pytest.raises(ConfigError, match=r"home exists and is left as it is; choose another"):
        found_fleet(tmp_path / "home", "home", HOSTS, 8883)
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"link exists"):
        found_fleet(tmp_path / "link", "home", HOSTS, 8883)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["home", "link"]


def test_a_failure_on_the_way_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise StoreError("the disk is full")

    monkeypatch.setattr(broker.founding.folder, "write_durably", full)
    with pytest.raises(StoreError, match="full"):
        found_fleet(tmp_path / "home", "home", HOSTS, 8883)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"cannot write .*file/home"):
        found_fleet(tmp_path / "file/home", "home", HOSTS, 8883)


@pytest.mark.parametrize("name", ["", "My home", "home/d/kitchen", "+", "a" * 33])
def test_what_cannot_be_a_fleets_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be a fleet's name: take a-z, 0-9 and -"):
        found_fleet(tmp_path / "home", name, HOSTS, 8883)
    assert list(tmp_path.iterdir()) == []


def test_the_hosts_are_those_asked_for_and_the_machines_own_each_once() -> None:
    found = names_and_addresses(["nas.lan", "192.0.2.7", "localhost"])
    assert found[:3] == ["nas.lan", "192.0.2.7", "localhost"]
    assert {"127.0.0.1", "::1"} < set(found)
    assert len(found) == len(set(found))
    assert any(name.endswith(".local") for name in found)


@pytest.mark.parametrize("host", ["", "a b", "k\u00fcche", "-nas", "nas:8883", "https://nas", "300.1.1.1.", "12345"])
def test_what_is_no_host_is_refused(host: str) -> None:
    with pytest.raises(ConfigError, match="neither a host's name nor an address"):
        names_and_addresses([host])


@pytest.mark.slow
def test_the_command_names_the_fleet_after_its_folder_and_says_in_three_lines_what_is_next(tmp_path: Path) -> None:
    done = run_init("my-home", "--host", "nas.lan", "--host", "192.0.2.7", here=tmp_path)
    assert (done.returncode, done.stderr, done.stdout.count("\n")) == (0, "", 3)
    assert re.findall(r"^\d\. fedlag (\w+)", done.stdout, re.MULTILINE) == ["export", "broker", "aggregator"]
    secrets = [path.read_text().splitlines()[1] for path in (tmp_path / "my-home/keys").glob("*.key")]
    assert len(secrets) == 4
    assert not any(secret in done.stdout for secret in secrets)
    certificate = x509.load_pem_x509_certificate((tmp_path / "my-home/keys/broker.pem").read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert {"nas.lan", "192.0.2.7"} < {str(name.value) for name in names}
    assert load_settings(tmp_path / "my-home/aggregator.toml", AggregatorConfig).fleet == "my-home"


@pytest.mark.slow
def test_the_command_ends_with_the_configurations_exit_code_where_something_is_already(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    done = run_init("home", here=tmp_path)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == "fedlag init: home exists and is left as it is; choose another folder, or move it away\n"
    assert run_init("other", "--host", "a b", here=tmp_path).returncode == 3
    assert not (tmp_path / "other").exists()
