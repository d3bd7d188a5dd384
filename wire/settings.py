"""Configuration files: TOML into a typed Struct, with errors that name the file and the option."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import msgspec

from wire.errors import ConfigError

__all__ = ["load_settings"]

S = TypeVar("S", bound=msgspec.Struct)


def load_settings(path: Path, kind: type[S]) -> S:
    """Return the settings in a TOML file; relative paths start at the file's folder.

    Raises:
        ConfigError: If the file is missing, is no TOML, or an option is unknown, missing or wrong.
    """
    try:
        settings = msgspec.toml.decode(path.read_bytes(), type=kind, dec_hook=_path)
    except OSError as error:
        raise ConfigError(f"cannot read the configuration {path}: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: {error}; docs/configuration.md explains every option") from error
    return _below(path.resolve().parent, settings)


def _below(here: Path, settings: S) -> S:
    """Return settings with all relative paths below a folder, those of its tables included."""
    fields: dict[str, object] = {}
    for name, value in msgspec.structs.asdict(settings).items():
        if isinstance(value, Path):
            fields[name] = here / value
        elif isinstance(value, msgspec.Struct):
            fields[name] = _below(here, value)
    return msgspec.structs.replace(settings, **fields)


def _path(kind: type, value: object) -> Path:
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise TypeError(f"expected a path, got {value!r}")
