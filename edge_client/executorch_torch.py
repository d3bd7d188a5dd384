"""A ``.pte`` file that runs through executorch's own Python package, which imports torch. Importing this module does not."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from edge_client.executorch_method import LoadMethod, TensorSpec
from wire.errors import ProgramError

__all__ = ["TorchMethod", "torch_loader"]


class TorchMethod:
    """A method behind torch's tensors; implements ``Method``.

    Args:
        file: A loaded program.

    Raises:
        ProgramError: If the runtime lacks a kernel that it needs.
    """

    way = "through torch"

    def __init__(self, file: Any) -> None:
        """Read what it takes and gives."""
        # A method does not keep its program alive, nor a program its bytes; without them the process would crash. A file
        # keeps its bytes and its method, so the file is what is kept here.
        self._file = file
        try:
            metadata = file.load_method("forward").metadata
        except (KeyError, RuntimeError) as error:
            raise ProgramError(str(error)) from error
        self.inputs = [_described(metadata.input_tensor_meta(i)) for i in range(metadata.num_inputs())]
        self.outputs = [_described(metadata.output_tensor_meta(i)) for i in range(metadata.num_outputs())]

    def run(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Run the method once; see ``Method``."""
        tensors = [_tensor(array) for array in arrays]
        try:
            return [output.numpy() for output in self._file.load_method("forward").execute(tensors)]
        except RuntimeError as error:
            raise ProgramError(str(error)) from error


def torch_loader() -> LoadMethod:
    """Return what loads files through torch, which is imported here. It computes with one thread.

    Raises:
        ProgramError: If torch or executorch cannot be imported.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "This API is experimental", on import
            from executorch.extension.pybindings import portable_lib  # noqa: PLC0415 - who runs without does not pay
            from executorch.runtime import Runtime  # noqa: PLC0415 - the same
    except ImportError as error:
        raise ProgramError(str(error)) from error
    portable_lib._unsafe_reset_threadpool(1)  # noqa: SLF001 - the one way to ask for one thread
    runtime = Runtime.get()

    def load(data: bytes, num_batched: int) -> TorchMethod:
        del num_batched  # nothing is tried first: each trial would import torch again
        try:
            return TorchMethod(runtime.load_program(data))
        except RuntimeError as error:
            raise ProgramError(str(error)) from error

    return load


def _tensor(values: np.ndarray) -> Any:
    """Return a tensor over the same memory where torch allows it: contiguous and writable."""
    import torch  # noqa: PLC0415 - the same

    return torch.from_numpy(np.require(values, requirements=("C", "W")))


def _described(tensor: Any) -> TensorSpec:
    """Return shape and type of one tensor."""
    return tuple(tensor.sizes()), tensor.dtype()
