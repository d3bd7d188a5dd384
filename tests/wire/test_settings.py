"""A configuration is read as it is written, or refused with the file and the option."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wire.broker_address import BrokerAddress
from wire.errors import ConfigError
from wire.settings import load_settings


class Example(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    folder: Path
    rounds: int = 3
    broker: BrokerAddress = BrokerAddress()


GOOD = 'name = "home"\nfolder = "state"\n'


def write(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "fleet.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_relative_paths_start_at_the_files_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, GOOD + "[broker]\nport = 1884\n")
    monkeypatch.chdir(tmp_path.parent)
    settings = load_settings(Path(tmp_path.name) / "fleet.toml", Example)
    assert settings == Example("home", tmp_path / "state", 3, BrokerAddress(port=1884))


def test_an_absolute_path_stays(tmp_path: Path) -> None:
    assert load_settings(write(tmp_path, 'name = "home"\nfolder = "/var/lib/x"'), Example).folder == Path("/var/lib/x")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('name = "home"', "missing required field `folder`"),
        (GOOD + "color = 1", "unknown field `color`"),
        (GOOD + 'rounds = "many"', r"Expected `int`, got `str` - at `\$.rounds`"),
        (GOOD + "[broker]\nport = 70000", r"\$.broker.port"),
        (GOOD + "[broker]\nport = 0", r"\$.broker.port"),
        (GOOD + '[broker]\nhost = ""', r"\$.broker.host"),
        ('name = "home"\nfolder = 7', r"expected a path, got 7 - at `\$.folder`"),
        (GOOD + "name = 'twice'\n\n", "Cannot overwrite a value"),
        ("name = \n", "line 1"),
        (b"name = '\xff'", "utf-8"),
        ("x = " + "[" * 100_000, "recursion"),
    ],
)
def test_a_wrong_option_is_named_with_its_file_in_one_line(tmp_path: Path, text: str | bytes, says: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError, match=says) as error:
        load_settings(path, Example)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("name", "why"), [("missing.toml", "No such file"), (".", "Is a directory")])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str, why: str) -> None:
    with pytest.raises(ConfigError, match=f"cannot read the configuration .*{why}"):
        load_settings(tmp_path / name, Example)


@given(data=st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_arbitrary_bytes_raise_nothing_but_a_config_error(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = write(tmp_path_factory.getbasetemp(), data)
    with pytest.raises(ConfigError):
        load_settings(path, Example)
