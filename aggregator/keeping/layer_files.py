"""Layers on the aggregator's disk: safetensors files, each named by the digest of the layer as it goes over the wire.

Any tool can read them. Read back, a layer is encoded again, and what does not have the digest of its name is refused.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import msgspec
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from wire.digest import content_digest
from wire.durable import storage_error, write_durably
from wire.errors import StoreError, WireError
from wire.manifest import LayerSpec
from wire.tensors import decode_layer, encode_layer, flatten_layer, unflatten_layer

__all__ = ["LayerFiles"]

SUFFIX = ".safetensors"
SPEC = "fedlag.layer"


class LayerFiles:
    """The layers of all versions that are kept.

    Args:
        folder: Made if it is missing.

    Raises:
        StoreError: If the disk refuses, or a file is damaged; so do all its methods.
    """

    def __init__(self, folder: Path) -> None:
        """Make the folder."""
        self._folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise storage_error(folder, error) from error

    def path(self, digest: str) -> Path:
        """Return where the layer of this digest is, or would be."""
        return self._folder / (digest + SUFFIX)

    def save(self, spec: LayerSpec, data: bytes) -> None:
        """Make a layer durable, given as ``encode_layer`` wrote it, float32 and raw."""
        params = {
            name: np.ascontiguousarray(it) for name, it in unflatten_layer(spec, decode_layer(data, spec)).items()
        }
        write_durably(self.path(content_digest(data)), save(params, {SPEC: msgspec.json.encode(spec).decode()}))

    def bring_back(self, other: LayerFiles, digests: Collection[str]) -> None:
        """Copy the layers of these digests from another folder, once all of them are known to be whole."""
        layers = [other._checked(digest) for digest in digests]
        for spec, _, data in layers:
            self.save(spec, data)

    def load(self, digest: str) -> bytes:
        """Return the layer of this digest as ``encode_layer`` wrote it, float32 and raw."""
        return self._checked(digest)[2]

    def vector(self, digest: str) -> np.ndarray:
        """Return the values of the layer of this digest, shape ``(num_params,)``, float32."""
        return self._checked(digest)[1]

    def parameters(self, digest: str) -> dict[str, np.ndarray]:
        """Return name -> value of the parameters of the layer of this digest, float32."""
        spec, values, _ = self._checked(digest)
        return unflatten_layer(spec, values)

    def prune(self, kept: Collection[str]) -> None:
        """Remove all but these."""
        for path in self._folder.iterdir():
            if path.name.removesuffix(SUFFIX) not in kept:
                path.unlink(missing_ok=True)

    def _checked(self, digest: str) -> tuple[LayerSpec, np.ndarray, bytes]:
        """Return a layer, its values and its encoding, which has this digest."""
        spec, values = self._read(digest)
        data = encode_layer(spec, values, codec="raw")
        if content_digest(data) != digest:
            raise StoreError(f"{self.path(digest)} was altered: its content does not match its name")
        return spec, values, data

    def _read(self, digest: str) -> tuple[LayerSpec, np.ndarray]:
        path = self.path(digest)
        try:
            with safe_open(path, framework="numpy") as file:
                spec = msgspec.json.decode(file.metadata()[SPEC], type=LayerSpec)
                return spec, flatten_layer(spec, {it.name: file.get_tensor(it.name) for it in spec.parameters})
        except OSError as error:
            raise StoreError(f"cannot read {path}: {error}") from error
        except (SafetensorError, msgspec.DecodeError, KeyError, TypeError, WireError) as error:
            raise StoreError(f"{path} is damaged: {error}") from error
