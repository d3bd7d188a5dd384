"""What ``fedlag export`` wrote, as the aggregator needs it: files to hand out, and the initial values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from wire.digest import content_digest
from wire.errors import ManifestError, ModelError
from wire.manifest import decode_manifest
from wire.tensors import encode_layer, flatten_layer

__all__ = ["ProgramFolder"]


class ProgramFolder:
    """A program, read and checked.

    Args:
        folder: The folder that ``fedlag export`` wrote.

    Raises:
        ManifestError: If a file is missing, or the manifest does not match it.
    """

    def __init__(self, folder: Path) -> None:
        """Read all files."""
        manifest = _read(folder / "manifest.json")
        self.manifest = decode_manifest(manifest)
        self.model_id = content_digest(manifest)
        files = {name: _read(folder / name) for name in self.manifest.files}
        for name, data in files.items():
            if content_digest(data) != self.manifest.files[name].sha256:
                raise ManifestError(f"{folder / name} is not what its manifest says; export the model again")
        self.files = (manifest, *files.values())

    def initial_layers(self, path: Path) -> dict[str, tuple[str, bytes]]:
        """Return digest -> (layer, encoded values) from a safetensors file.

        Raises:
            ModelError: If the file is missing or broken, or its tensors do not fit the manifest.
        """
        try:
            tensors = load_file(path)
        except (OSError, SafetensorError) as error:
            raise ModelError(
                f"cannot read the initial values {path}: {error}; write them with `fedlag export`"
            ) from error
        for parameter in self.manifest.parameters:
            tensor = tensors.get(parameter.name)
            if tensor is None or tensor.shape != parameter.shape or tensor.dtype != np.float32:
                raise ModelError(f"{path} has no float32 tensor {parameter.name} of shape {parameter.shape}")
            if not np.isfinite(tensor).all():
                raise ModelError(f"{path}: tensor {parameter.name} holds a value that is not finite")
        layers = {}
        for layer in self.manifest.layers:
            data = encode_layer(layer, flatten_layer(layer, tensors), codec="raw")
            layers[content_digest(data)] = (layer.name, data)
        return layers


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ManifestError(f"cannot read {path}: {error.strerror}; write it with `fedlag export`") from error
