"""A ``.pte`` file that runs without torch: NumPy in, NumPy out."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np

from edge_client.executorch_method import FLOAT32, INT64, LoadMethod
from edge_client.native.binding import LoadedMethod, open_library
from edge_client.native.building import build_library
from edge_client.native.probe import probe
from wire.errors import ProgramError

__all__ = ["NativeMethod", "native_loader"]

TYPES: dict[int, np.dtype] = {FLOAT32: np.dtype(np.float32), INT64: np.dtype(np.int64)}


class NativeMethod:
    """A method in the runtime's own memory; implements ``Method``.

    Args:
        loaded: A file that the runtime has loaded, of float32 and int64 tensors.

    Raises:
        ProgramError: If it has tensors of another type.
    """

    way = "without torch"

    def __init__(self, loaded: LoadedMethod) -> None:
        """Read what it takes and gives."""
        self._loaded = loaded
        self.inputs, self.outputs = loaded.inputs, loaded.outputs
        strange = {kind for _, kind in (*self.inputs, *self.outputs)} - TYPES.keys()
        if strange:
            raise ProgramError(f"it has tensors of type code {min(strange)}, neither float32 nor int64")

    def run(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Run the method once; see ``Method``."""
        if len(arrays) != len(self.inputs):
            raise ProgramError(f"it takes {len(self.inputs)} arrays, not {len(arrays)}")
        for number, (array, (shape, kind)) in enumerate(zip(arrays, self.inputs, strict=True), start=1):
            if array.dtype != TYPES[kind] or array.ndim != len(shape):
                raise ProgramError(
                    f"input {number} is {array.dtype} {array.shape}, expected is {TYPES[kind]} within {shape}"
                )
        ready = [np.require(array, requirements=("C", "A")) for array in arrays]  # no copy where they are so already
        found = self._loaded.run([array.ctypes.data for array in ready], [array.shape for array in ready])
        return [
            _copy(address, shape, TYPES[kind]) for (address, shape), (_, kind) in zip(found, self.outputs, strict=True)
        ]


def native_loader() -> LoadMethod:
    """Return what loads files without torch; the library is built where it is not there yet.

    A file is first loaded and run in a process of its own: one that would end this process is refused instead.

    Raises:
        ProgramError: If the library cannot be built or loaded.
    """
    path = build_library()
    library = open_library(path)

    def load(data: bytes, num_batched: int) -> NativeMethod:
        probe(path, data, num_batched)
        return NativeMethod(LoadedMethod(library, data))

    return load


def _copy(address: int, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Return an array of its own with what lies there."""
    array = np.empty(shape, dtype)
    ctypes.memmove(array.ctypes.data, address, array.nbytes)
    return array
