"""The device's configuration: one TOML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from wire.errors import ConfigError
from wire.mqtt import BrokerAddress

__all__ = ["EdgeConfig", "load_config"]


class EdgeConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a device must be told.

    Args:
        fleet: The fleet's name.
        device_id: The device's own name.
        data: An ``.npz`` file with ``x_train``, ``y_train``, ``x_validation``, ``y_validation`` and, where there is a
            test split, ``x_test`` and ``y_test``.
        folder: Where the device keeps its program and its personal layers.
        runtime: ``onnx`` or ``executorch``.
        broker: Where the broker is.
    """

    fleet: Annotated[str, Meta(pattern="^[a-z0-9-]{1,64}$")]
    device_id: Annotated[str, Meta(pattern="^[a-z0-9-]{1,64}$")]
    data: Path
    folder: Path
    runtime: Literal["onnx", "executorch"] = "onnx"
    broker: BrokerAddress = BrokerAddress()


def load_config(path: Path) -> EdgeConfig:
    """Return the configuration in a TOML file; relative paths in it start at its folder.

    Raises:
        ConfigError: If the file is missing, is no TOML, or an option is unknown, missing or wrong.
    """
    try:
        config = msgspec.toml.decode(path.read_bytes(), type=EdgeConfig, dec_hook=_path)
    except OSError as error:
        raise ConfigError(f"cannot read the device's configuration {path}: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}; see docs/edge.md for every option") from error
    here = path.resolve().parent
    return msgspec.structs.replace(config, data=here / config.data, folder=here / config.folder)


def _path(kind: type, value: object) -> Path:
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise TypeError(f"expected a path, got {value!r}")
