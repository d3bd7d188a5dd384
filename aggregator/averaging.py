"""Averaging: the shared layers of a cohort become one, with the same bits whatever happened on the way.

Federated averaging (B. McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data",
AISTATS 2017). Devices answer in any order, an aggregator may be killed and read its log again: the average must not
depend on it, because its digest names it. So the sum runs over the devices in the order of their names, in float64, one
column independent of all others; then the block size cannot matter either.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from wire.errors import FleetError

if TYPE_CHECKING:
    from jaxtyping import Float32

__all__ = ["weighted_average"]

DEFAULT_BLOCK_SIZE = 65_536


def weighted_average(
    rows: Mapping[str, Float32[np.ndarray, " params"]],
    weights: Mapping[str, float],
    block_size: int = DEFAULT_BLOCK_SIZE,
) -> Float32[np.ndarray, " params"]:
    """Return the weighted mean of the devices' values of one layer.

    It has the same bits for any order of the mappings and any block size, on any machine: products and sums are plain
    float64 operations in the order of the devices' names. Before the result is rounded to float32 its relative error is
    about ``len(rows) * 2**-53`` of the largest value. Rows are read one block of columns at a time, so rows that are
    maps of files never stand in memory as a whole.

    Args:
        rows: Device name -> its values, shape ``(params,)``, float32, finite; arrays or ``np.memmap`` views.
        weights: Device name -> its weight, finite and at least 0, for example its number of examples; their sum must be
            positive, their scale does not matter.
        block_size: Columns read at a time, at least 1.

    Returns:
        Shape ``(params,)``, float32; each value lies between the smallest and the largest of its column.

    Raises:
        FleetError: If there are no rows, their shapes differ, rows and weights name different devices, a weight is
            negative or not finite, or all are 0.
        ValueError: If ``block_size`` is below 1.

    Example:
        >>> rows = {"kitchen": np.array([1, 2], dtype=np.float32), "attic": np.array([5, 2], dtype=np.float32)}
        >>> weighted_average(rows, {"kitchen": 300, "attic": 100})
        array([2., 2.], dtype=float32)
    """
    if block_size < 1:
        raise ValueError(f"block_size must be at least 1, not {block_size}")
    devices = sorted(rows)
    num_params = _common_length(rows, devices)
    shares = _shares(weights, devices)
    average = np.empty(num_params, dtype=np.float32)
    for start in range(0, num_params, block_size):
        block = slice(start, min(start + block_size, num_params))
        total = np.zeros(block.stop - start)
        term = np.empty_like(total)
        for device, share in zip(devices, shares, strict=True):
            np.multiply(rows[device][block], share, out=term, dtype=np.float64)
            total += term
        average[block] = total
    return average


def _common_length(rows: Mapping[str, Float32[np.ndarray, " params"]], devices: list[str]) -> int:
    """Return the number of values in every row."""
    if not devices:
        raise FleetError("cannot average: no device's values were counted")
    num_params = int(rows[devices[0]].size)
    for device in devices:
        if rows[device].shape != (num_params,):
            raise FleetError(f"cannot average: {device} has the shape {rows[device].shape}, not ({num_params},)")
    return num_params


def _shares(weights: Mapping[str, float], devices: list[str]) -> list[float]:
    """Return the devices' weights, scaled to a sum of 1."""
    if sorted(weights) != devices:
        strangers = ", ".join(sorted(set(weights).symmetric_difference(devices)))
        raise FleetError(f"cannot average: values or a weight are missing for {strangers}")
    for device in devices:
        if not (math.isfinite(weights[device]) and weights[device] >= 0):
            raise FleetError(f"cannot average: the weight of {device} is {weights[device]}")
    total = math.fsum(weights[device] for device in devices)
    if total <= 0:
        raise FleetError("cannot average: all weights are 0")
    return [weights[device] / total for device in devices]
