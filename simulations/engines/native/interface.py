"""The compiled loops' C interface: what training.cpp exports, and the structures that it reads."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import c_double, c_int, c_int64, c_void_p
from functools import cache

import numpy as np
import torch

from simulations.engines.native.building import build_loops

__all__ = ["BatchesTable", "Loops", "ModelTable", "RuleTable", "load_loops", "stack_table"]


class ModelTable(ctypes.Structure):
    """``Model`` of training.cpp."""

    _fields_ = (
        ("links", c_void_p),
        ("num_links", c_int64),
        ("sizes", c_void_p),
        ("is_wanted", c_void_p),
        ("num_params", c_int64),
    )

    @classmethod
    def of(cls, links: np.ndarray, sizes: np.ndarray, is_wanted: np.ndarray) -> ModelTable:
        """Return a table that keeps these arrays, all int64.

        Args:
            links: From ``tabulate``, shape ``(links, 17)``.
            sizes: Of the parameters, shape ``(params,)``.
            is_wanted: Whether each one is trained, shape ``(params,)``.
        """
        arrays = links.ctypes.data, len(links), sizes.ctypes.data, is_wanted.ctypes.data, len(sizes)
        table = cls(*arrays)
        table.kept = links, sizes, is_wanted
        return table


class RuleTable(ctypes.Structure):
    """``Rule`` of chain.hpp."""

    _fields_ = (
        *((name, c_double) for name in ("learning_rate", "momentum", "largest_norm")),
        *((name, c_double) for name in ("smallest_norm", "proximal", "weight_decay")),
        *((name, c_int64) for name in ("is_nesterov", "is_plain")),
    )


class BatchesTable(ctypes.Structure):
    """``Batches`` of training.cpp."""

    _fields_ = (
        *((name, c_void_p) for name in ("inputs", "targets", "rows", "weights", "active")),
        *((name, c_int64) for name in ("clients", "steps", "batch", "input_size")),
    )

    @classmethod
    def of(cls, tensors: tuple[torch.Tensor, ...], active: np.ndarray, **sizes: int) -> BatchesTable:
        """Return a table that keeps these tensors and this array.

        Args:
            tensors: Inputs, targets, rows and weights, as in ``Batches``.
            active: How many clients take part in each step, shape ``(steps,)``, int64.
            **sizes: The other fields.
        """
        kept = [values.contiguous() for values in tensors]
        table = cls(*(values.data_ptr() for values in kept), active.ctypes.data, **sizes)
        table.kept = *kept, active
        return table


def stack_table(tensors: Sequence[torch.Tensor]) -> ctypes.Array[c_void_p]:
    """Return where each parameter of a stack begins; the table does not keep them.

    Args:
        tensors: The parameters, each contiguous.
    """
    return (c_void_p * len(tensors))(*(values.data_ptr() for values in tensors))


class Loops:
    """The functions for one type of numbers.

    Args:
        dtype: float32 or float64.

    Raises:
        ProgramError: If they cannot be compiled.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        """Load the library; it is compiled if it is not there yet."""
        library = ctypes.CDLL(str(build_loops("double" if dtype == torch.float64 else "float")))
        pointers, model, batches = c_void_p, ctypes.POINTER(ModelTable), ctypes.POINTER(BatchesTable)
        self.train = library.fedlag_train
        self.train.argtypes = (model, ctypes.POINTER(RuleTable), batches, pointers, pointers, c_void_p)
        self.train.restype = c_int
        self.differentiate = library.fedlag_differentiate
        self.differentiate.argtypes = (model, batches, pointers, pointers, c_void_p)
        self.differentiate.restype = c_int
        self.predict = library.fedlag_predict
        self.predict.argtypes = (model, c_void_p, c_int64, c_int64, c_int64, pointers, c_void_p)
        self.predict.restype = None


@cache
def load_loops(dtype: torch.dtype) -> Loops:
    """Return the functions for a type of numbers, loaded once a process.

    Raises:
        ProgramError: If they cannot be compiled.
    """
    return Loops(dtype)
