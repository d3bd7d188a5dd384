"""A chain as the compiled loops read it: one row of integers for each link, with all its sizes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from simulations.engines.chain import chain_of, check_order
from simulations.engines.chain_ops import Convolution, Flatten, GroupNorm, Linear, MaxPool, Operation, Relu, Tanh
from simulations.engines.model import SimulatedModel

__all__ = ["tabulate"]

KINDS = (Convolution, GroupNorm, MaxPool, Relu, Tanh, Flatten, Linear)
"""In the order of ``Kind`` in links.hpp."""


def tabulate(model: SimulatedModel, names: Sequence[str]) -> np.ndarray:
    """Return a model's links, shape ``(links, 17)``, int64.

    The columns are those of ``Link`` in links.hpp; the last one holds the bits of a float64.

    Args:
        model: A chain of operations.
        names: Of all its parameters; the table holds their places in it.

    Raises:
        NotAChainError: If it is none.
    """
    chain = chain_of(model.module)
    is_flat = len(model.input_shape) == 1 or isinstance(chain[0], Flatten)
    check_order(chain, is_flat)
    shapes = {parameter.name: tuple(parameter.shape) for layer in model.layers for parameter in layer.parameters}
    sizes = (int(np.prod(model.input_shape)), 1, 1) if is_flat else _image(model.input_shape)
    rows = []
    for operation in chain:
        if isinstance(operation, Flatten) and is_flat:
            continue
        following, window = _following(operation, sizes, shapes)
        places = [names.index(name) for name in operation.parameters]
        norm = _norm(operation)
        rows.append((KINDS.index(type(operation)), *(*places, -1, -1)[:2], *sizes, *following, *window, *norm))
        is_flat, sizes = is_flat or isinstance(operation, Flatten), following
    return np.array(rows, dtype=np.int64)


def _norm(operation: Operation) -> tuple[int, int]:
    """Return a norm's number of groups, and the bits of its epsilon."""
    if not isinstance(operation, GroupNorm):
        return 1, 0
    return operation.num_groups, int(np.float64(operation.eps).view(np.int64))


def _image(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Return channels, height and width; a signal's height is 1."""
    return shape[0], (1 if len(shape) == 2 else shape[1]), shape[-1]  # noqa: PLR2004 - channels and width


def _following(
    operation: Operation, sizes: tuple[int, int, int], shapes: dict[str, tuple[int, ...]]
) -> tuple[tuple[int, int, int], tuple[int, ...]]:
    """Return what comes out, as channels, height and width, and the link's kernel, stride and padding."""
    channels, height, width = sizes
    match operation:
        case Linear():
            return (shapes[operation.parameters[0]][0], 1, 1), (1, 1, 1, 1, 0, 0)
        case Flatten():
            return (channels * height * width, 1, 1), (1, 1, 1, 1, 0, 0)
        case Convolution():
            outputs, _, *window = shapes[operation.parameters[0]]
            return _slide(operation.stride, operation.padding, outputs, (1, *window)[-2:], (height, width))
        case MaxPool():
            kernel, stride = operation.kernel, operation.stride
            if height == 1:  # a signal has nothing to pool along its height
                kernel, stride = (1, kernel[1]), (1, stride[1])
            return _slide(stride, (0, 0), channels, kernel, (height, width))
        case _:
            return sizes, (1, 1, 1, 1, 0, 0)


def _slide(
    stride: tuple[int, int], padding: tuple[int, int], outputs: int, kernel: tuple[int, ...], sides: tuple[int, int]
) -> tuple[tuple[int, int, int], tuple[int, ...]]:
    height, width = (
        (side + 2 * pad - window) // step + 1
        for side, pad, window, step in zip(sides, padding, kernel, stride, strict=True)
    )
    return (outputs, height, width), (*kernel, *stride, *padding)
