"""A device's configuration names it and its files, and nothing that a topic could not carry."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_client.config import EdgeConfig
from wire.broker_address import BrokerAddress
from wire.errors import ConfigError
from wire.settings import load_settings

GOOD = {"fleet": '"home"', "device_id": '"pi-1"', "data": '"data.npz"', "folder": '"state"'}


def write(tmp_path: Path, **changes: str) -> Path:
    path = tmp_path / "device.toml"
    path.write_text("".join(f"{name} = {value}\n" for name, value in (GOOD | changes).items()))
    return path


def test_four_options_suffice(tmp_path: Path) -> None:
    assert load_settings(write(tmp_path), EdgeConfig) == EdgeConfig(
        fleet="home",
        device_id="pi-1",
        data=tmp_path / "data.npz",
        folder=tmp_path / "state",
        runtime="onnx",
        broker=BrokerAddress("127.0.0.1", 1883),
    )


@pytest.mark.parametrize("option", ["fleet", "device_id"])
@pytest.mark.parametrize("name", ["", "Pi", "pi_1", "pi/1", "+", "#", "a" * 65, "p\u00ef", "pi\\n"])
def test_a_name_that_no_topic_could_carry_is_refused(tmp_path: Path, option: str, name: str) -> None:
    with pytest.raises(ConfigError, match=option):
        load_settings(write(tmp_path, **{option: f'"{name}"'}), EdgeConfig)


@pytest.mark.parametrize("runtime", ['"torch"', "1"])
def test_an_unknown_runtime_is_refused(tmp_path: Path, runtime: str) -> None:
    with pytest.raises(ConfigError, match="runtime"):
        load_settings(write(tmp_path, runtime=runtime), EdgeConfig)
