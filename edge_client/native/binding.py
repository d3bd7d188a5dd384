"""The compiled C interface (``runtime.cpp``) as Python calls it: pointers and sizes, without NumPy."""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Sequence
from pathlib import Path

from edge_client.executorch_method import TensorSpec
from wire.errors import ProgramError

__all__ = ["LoadedMethod", "most_bytes", "open_library"]

MOST_DIMENSIONS = 16
REASON_BYTES = 512

Pointer = ctypes.c_void_p

RESULTS = {
    "fedlag_start": ctypes.c_bool,
    "fedlag_load": Pointer,
    "fedlag_free": None,
    "fedlag_count": ctypes.c_int,
    "fedlag_describe": ctypes.c_int,
    "fedlag_run": ctypes.c_bool,
}
ARGUMENTS = {
    "fedlag_start": [Pointer, ctypes.c_size_t],
    "fedlag_load": [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint64, Pointer, ctypes.c_size_t],
    "fedlag_free": [Pointer],
    "fedlag_count": [Pointer, ctypes.c_int],
    "fedlag_describe": [Pointer, ctypes.c_int, ctypes.c_int, Pointer, Pointer],
    "fedlag_run": [Pointer, Pointer, Pointer, Pointer, Pointer, Pointer, ctypes.c_size_t],
}


class LoadedMethod:
    """The method ``forward`` of one file, in the runtime's memory; used by one thread at a time.

    Args:
        library: From ``open_library``.
        data: The file's bytes.

    Raises:
        ProgramError: If the runtime refuses them.
    """

    def __init__(self, library: ctypes.CDLL, data: bytes) -> None:
        """Load the bytes; they are copied."""
        self._method: int | None = None
        self._library = library
        self._reason = ctypes.create_string_buffer(REASON_BYTES)
        self._method = library.fedlag_load(data, len(data), most_bytes(), self._reason, REASON_BYTES)
        if not self._method:
            raise ProgramError(self._why())
        self.inputs = self._describe(is_output=False)
        self.outputs = self._describe(is_output=True)
        self._output_data = (Pointer * max(len(self.outputs), 1))()
        self._output_sizes = (ctypes.c_int32 * max(sum(len(shape) for shape, _ in self.outputs), 1))()

    def __del__(self) -> None:
        """Give the memory back."""
        if self._method:
            self._library.fedlag_free(self._method)

    def run(self, addresses: Sequence[int], shapes: Sequence[tuple[int, ...]]) -> list[tuple[int, tuple[int, ...]]]:
        """Run the method over its caller's memory.

        Args:
            addresses: Of each input's first value; contiguous, aligned, of its type.
            shapes: Of each input, with as many dimensions as ``inputs`` says.

        Returns:
            Address and shape of each output; the memory is the method's, until it runs again.

        Raises:
            ProgramError: If the runtime refuses.
        """
        sizes = [size for shape in shapes for size in shape]
        if not self._library.fedlag_run(
            self._method,
            (Pointer * max(len(addresses), 1))(*addresses),
            (ctypes.c_int32 * max(len(sizes), 1))(*sizes),
            self._output_data,
            self._output_sizes,
            self._reason,
            REASON_BYTES,
        ):
            raise ProgramError(self._why())
        rest = iter(self._output_sizes)
        return [
            (address or 0, tuple(next(rest) for _ in shape))
            for address, (shape, _) in zip(self._output_data, self.outputs, strict=False)
        ]

    def _describe(self, *, is_output: bool) -> list[TensorSpec]:
        kind = ctypes.c_int32()
        sizes = (ctypes.c_int32 * MOST_DIMENSIONS)()
        tensors = []
        for index in range(self._library.fedlag_count(self._method, is_output)):
            dimensions = self._library.fedlag_describe(self._method, is_output, index, ctypes.byref(kind), sizes)
            tensors.append((tuple(sizes[:dimensions]), kind.value))
        return tensors

    def _why(self) -> str:
        return self._reason.value.decode(errors="replace")


@functools.cache
def open_library(path: Path) -> ctypes.CDLL:
    """Return the library, started, with one thread for all that it computes in this process.

    Args:
        path: What ``building.build_library`` gave.

    Raises:
        ProgramError: If it cannot be loaded or started.
    """
    try:
        library = ctypes.CDLL(str(path))
        for name, result in RESULTS.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, ARGUMENTS[name]
    except (AttributeError, OSError) as error:
        raise ProgramError(f"cannot load {path}: {error}; delete it, and it is built again") from error
    reason = ctypes.create_string_buffer(REASON_BYTES)
    if not library.fedlag_start(reason, REASON_BYTES):
        raise ProgramError(f"ExecuTorch cannot start: {reason.value.decode(errors='replace')}")
    return library


def most_bytes() -> int:
    """Return the most memory that a file may plan with: half of what this machine has."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
