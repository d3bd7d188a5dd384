"""A loaded ``.pte`` file, whichever way it is run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np

__all__ = ["FLOAT32", "INT64", "LoadMethod", "Method", "TensorSpec"]

FLOAT32 = 6
INT64 = 4
"""ExecuTorch's codes for the types of tensors."""

TensorSpec = tuple[tuple[int, ...], int]
"""Shape, as large as the file's memory plan has room for, and type code."""


class Method(Protocol):
    """The method ``forward`` of one file, ready to run; used by one thread at a time."""

    way: str
    """``without torch`` or ``through torch``."""

    inputs: list[TensorSpec]
    outputs: list[TensorSpec]

    def run(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Run the method once.

        Args:
            arrays: One for each of ``inputs``, of its type, no larger than its shape, of any layout; not written to.

        Returns:
            One for each of ``outputs``, in memory of its own.

        Raises:
            ProgramError: With the runtime's reason, if it refuses.
        """
        ...


LoadMethod = Callable[[bytes, int], Method]
"""Loads a file's bytes, whose last so many inputs have the batch as their first dimension; raises ``ProgramError``."""
