"""Inner products of a cohort's updates, summed over blocks of columns: fast, and in little memory.

What conflict needs of the updates ``U`` is ``U U^T``, or without pairs the products with the sum of all directions. Both
are sums over columns, so a layer is read once or twice, a few megabytes at a time, and may be the map of a file. Sums
over blocks are float64. Within a block the products of a wide float32 layer are float32, one symmetric product (``syrk``)
at the speed of the hardware; narrow layers and sketches, float64 updates, and float32 updates whose squares could leave
float32's range get float64 products.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from wire.errors import WireError

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Float64

__all__ = ["DirectionSums", "gram_matrix", "sum_directions"]

MAX_NARROW_PARAMS = 4_096
SINGLE_BLOCK_PARAMS = 8_192
DOUBLE_BLOCK_VALUES = 2**19
FEWEST_BLOCK_PARAMS = 16
SMALLEST_SINGLE_SQUARE = 1e-20
LARGEST_SINGLE_SQUARE = 1e36


class DirectionSums(NamedTuple):
    """The products of unit rows ``g`` with their sum ``S``, and what they give without pairs.

    Args:
        moved: Whether a row has a direction, shape ``(devices,)``; the others add nothing.
        with_sum: ``<g_u, S>``, shape ``(devices,)``, float64 in ``[-devices, devices]``; 0 for a row without direction.
        square: ``<S, S>``, in ``[0, devices**2]``.
    """

    moved: Bool[np.ndarray, " devices"]
    with_sum: Float64[np.ndarray, " devices"]
    square: float

    @property
    def num_moved(self) -> int:
        """How many rows have a direction."""
        return int(np.count_nonzero(self.moved))

    @property
    def with_rest(self) -> Float64[np.ndarray, " devices"]:
        """``<g_u, S - g_u>``: each row's product with the sum of the others; 0 for a row without direction."""
        rest: Float64[np.ndarray, " devices"] = self.with_sum - self.moved
        return rest

    @property
    def rest_norms(self) -> Float64[np.ndarray, " devices"]:
        """``|S - g_u|``: the length of the sum of the others, at least 0."""
        norms: Float64[np.ndarray, " devices"] = np.sqrt(np.maximum(self.square - 2 * self.with_sum + self.moved, 0.0))
        return norms


def gram_matrix(updates: Float[np.ndarray, "devices params"]) -> Float64[np.ndarray, "devices devices"]:
    """Return the inner products of all pairs of rows.

    The same updates give the same bits on the same machine. Besides the result it takes a few megabytes, whatever the
    number of columns.

    Args:
        updates: One update or sketch per row, shape ``(devices, params)``, finite, of any float type; float64 rows with
            norms in ``[1e-150, 1e150]``. May be a map of a file.

    Returns:
        Symmetric, shape ``(devices, devices)``, float64, in squared units of the updates. From more than 4,096 columns
        of float32 its entries differ by about ``1e-7 |u| |v|`` from the exact ones, else by about ``1e-16 |u| |v|``.

    Raises:
        WireError: If ``updates`` is not two-dimensional.

    Example:
        >>> gram_matrix(np.array([[1, 0], [-2, 1]], dtype=np.float32))
        array([[ 1., -2.],
               [-2.,  5.]])
    """
    _check_shape(updates)
    if updates.dtype == np.float32 and updates.shape[1] > MAX_NARROW_PARAMS:
        with np.errstate(over="ignore", invalid="ignore"):
            gram = _sum_products(_single_blocks(updates), len(updates))
        if _is_in_single_range(updates, np.diagonal(gram)):
            return gram
    return _sum_products(_double_blocks(updates), len(updates))


def sum_directions(updates: Float[np.ndarray, "devices params"]) -> DirectionSums:
    """Return the products of every row's direction with the sum of all directions, in two passes and without pairs.

    Args:
        updates: As for ``gram_matrix``.

    Raises:
        WireError: If ``updates`` is not two-dimensional.

    Example:
        >>> sums = sum_directions(np.array([[1, 0], [-2, 0], [0, 3], [0, 0]], dtype=np.float32))
        >>> sums.with_sum.tolist(), sums.square, sums.num_moved
        ([0.0, 0.0, 1.0, 0.0], 1.0, 3)
    """
    _check_shape(updates)
    squares = np.zeros(len(updates))
    for block in _double_blocks(updates):
        squares += np.einsum("ij,ij->i", block, block)
    moved = squares > 0
    scales = 1.0 / np.sqrt(np.where(moved, squares, 1.0))
    with_sum, square = np.zeros(len(updates)), 0.0
    for block in _double_blocks(updates):
        total = scales @ block
        with_sum += block @ total
        square += float(total @ total)
    return DirectionSums(moved, with_sum * scales, square)


def _check_shape(updates: Float[np.ndarray, "devices params"]) -> None:
    """Refuse what has no rows and columns."""
    if updates.ndim != 2:  # noqa: PLR2004 - devices and parameters
        raise WireError("wrong-shape", f"updates must have the shape (devices, params), not {updates.shape}")


def _sum_products(
    blocks: Iterator[Float[np.ndarray, "devices columns"]], num_devices: int
) -> Float64[np.ndarray, "devices devices"]:
    """Return the sum of the blocks' products with themselves; only those are in the blocks' precision."""
    gram = np.zeros((num_devices, num_devices))
    for block in blocks:
        gram += block @ block.T
    return gram


def _is_in_single_range(updates: Float[np.ndarray, "devices params"], squares: Float64[np.ndarray, " devices"]) -> bool:
    """Return whether no product can have left float32's range: every row is zero, or its squared norm is moderate."""
    is_moderate = (squares >= SMALLEST_SINGLE_SQUARE) & (squares <= LARGEST_SINGLE_SQUARE)
    return not any(updates[device].any() for device in np.flatnonzero(~is_moderate))


def _single_blocks(updates: Float[np.ndarray, "devices params"]) -> Iterator[Float[np.ndarray, "devices columns"]]:
    """Yield views of the columns, block by block: short sums stay accurate."""
    for start in range(0, updates.shape[1], SINGLE_BLOCK_PARAMS):
        yield np.asarray(updates[:, start : start + SINGLE_BLOCK_PARAMS])


def _double_blocks(updates: Float[np.ndarray, "devices params"]) -> Iterator[Float64[np.ndarray, "devices columns"]]:
    """Yield the columns in float64, block by block, in one buffer: a block is good until the next one."""
    num_devices, num_params = updates.shape
    width = max(FEWEST_BLOCK_PARAMS, DOUBLE_BLOCK_VALUES // max(1, num_devices))
    buffer = np.empty((num_devices, min(width, num_params)))
    for start in range(0, num_params, width):
        columns = updates[:, start : start + width]
        block = buffer[:, : columns.shape[1]]
        block[...] = columns
        yield block
