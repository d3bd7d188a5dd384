"""Averaging: the shared layers of a cohort become one, with the same bits whatever happened on the way.

Federated averaging (B. McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data",
AISTATS 2017). Devices answer in any order, an aggregator may be killed and read its log again: the average must not
depend on it, because its digest names it. So the sum runs over the devices in the order of their names, in float64, one
column independent of all others; then the block size cannot matter either. ``WeightedSum`` is that sum, for those who
hold a few rows at a time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

import numpy as np

from wire.errors import FleetError

if TYPE_CHECKING:
    from jaxtyping import Float32, Float64

__all__ = ["Row", "WeightedSum", "weighted_average"]

CACHED_PARAMS = 65_536
SHARES_TOLERANCE = 1e-9


class WeightedSum:
    """The weighted mean of one layer's rows, as they come: the sum so far of ``share * row``.

    Rows may come one at a time or in stacks; only their order counts. In the order of the devices' names, and with each
    device's weight divided by the sum of all weights as its share, the result has the bits of ``weighted_average``.
    Several workers may each add up their part of a cohort and then be merged with ``+=``. Float64 addition is
    associative up to rounding alone: the merged average may differ in its last bit from one sum over all rows, and its
    bits depend on which rows were whose and on the order of merging. It can be pickled.

    Args:
        num_params: Number of the layer's parameters, at least 0.

    Example:
        >>> kitchen, attic = WeightedSum(2), WeightedSum(2)
        >>> kitchen.add(np.array([1, 2], dtype=np.float32), share=0.75)
        >>> attic.add_rows(np.array([[5, 2]], dtype=np.float32), shares=np.array([0.25]))
        >>> kitchen += attic
        >>> kitchen.average()
        array([2., 2.], dtype=float32)
    """

    __slots__ = ("_share", "_term", "_total")

    def __init__(self, num_params: int) -> None:
        """Begin with nobody."""
        self._total = np.zeros(num_params)
        self._term = np.empty(min(num_params, CACHED_PARAMS))
        self._share = 0.0

    def add(self, row: Float32[np.ndarray, " params"], share: float) -> None:
        """Add one device.

        Args:
            row: Its values, shape ``(params,)``, float32, finite.
            share: Its weight divided by the sum of all weights, in ``[0, 1]``.

        Raises:
            FleetError: If the row has another shape.
        """
        if row.shape != self._total.shape:
            raise FleetError(f"cannot average: a row has the shape {row.shape}, not {self._total.shape}")
        if row.size > CACHED_PARAMS:
            self.add_rows(row[np.newaxis], np.array([share]))
            return
        self._share += share
        np.multiply(row, share, self._term, dtype=np.float64)
        np.add(self._total, self._term, self._total)

    def add_rows(self, rows: Float32[np.ndarray, "devices params"], shares: Float64[np.ndarray, " devices"]) -> None:
        """Add a stack of devices, one after the other: the bits are those of as many calls of ``add``.

        One block of columns is done for all rows before the next one, so that its sum stays in the cache.

        Args:
            rows: One device's values a row, shape ``(devices, params)``, float32, finite.
            shares: Of the same devices, shape ``(devices,)``, float64, each in ``[0, 1]``.

        Raises:
            FleetError: If the rows have another length, or there are not as many shares.
        """
        if rows.shape != (len(shares), *self._total.shape):
            raise FleetError(
                f"cannot average: {len(shares)} rows have the shape {rows.shape}, not {(len(shares), *self._total.shape)}"
            )
        for share in (each := shares.tolist()):
            self._share += share
        for start in range(0, self._total.size, CACHED_PARAMS):
            total = self._total[start : start + CACHED_PARAMS]
            term = self._term[: total.size]
            for row, share in zip(rows[:, start : start + CACHED_PARAMS], each, strict=True):
                np.multiply(row, share, term, dtype=np.float64)
                np.add(total, term, total)

    def add_sum(self, values: Float64[np.ndarray, " params"], share: float) -> None:
        """Add several devices whose rows were summed up elsewhere, for example on a GPU.

        Args:
            values: The sum of ``share * row`` over them, shape ``(params,)``, float64.
            share: The sum of their shares.

        Raises:
            FleetError: If the sum has another shape.
        """
        if values.shape != self._total.shape:
            raise FleetError(f"cannot average: a sum has the shape {values.shape}, not {self._total.shape}")
        self._total += values
        self._share += share

    def __iadd__(self, other: WeightedSum) -> WeightedSum:  # noqa: PYI034 - beartype knows Self in checked classes alone
        """Add what another one has added, and leave that one as it is.

        Raises:
            FleetError: If it is of another number of parameters.
        """
        if other._total.shape != self._total.shape:
            raise FleetError(f"cannot average: sums of the shapes {self._total.shape} and {other._total.shape}")
        self._total += other._total
        self._share += other._share
        return self

    def average(self, present: float = 1.0) -> Float32[np.ndarray, " params"]:
        """Return the average, rounded to float32; the sum stays as it is.

        Args:
            present: What the shares add up to, in ``(0, 1]``: below 1 if devices are missing whose shares were counted
                on. The others then weigh as if they had been alone.

        Returns:
            Shape ``(params,)``, float32.

        Raises:
            FleetError: If the shares so far add up to something else: somebody is missing, or was counted twice.
        """
        if not abs(self._share - present) <= SHARES_TOLERANCE:
            raise FleetError(f"cannot average: the shares add up to {self._share:.9g}, not to {present:.9g}")
        return (self._total if present == 1.0 else self._total / present).astype(np.float32)


class Row(Protocol):
    """One device's values of a layer: a vector of float32, in memory or elsewhere."""

    @property
    def shape(self) -> tuple[int, ...]:
        """``(params,)``."""

    def __getitem__(self, block: slice, /) -> np.ndarray:
        """Return some of the values, shape ``(block,)``, float32."""


def weighted_average(
    rows: Mapping[str, Row],
    weights: Mapping[str, float],
    block_size: int = CACHED_PARAMS,
) -> Float32[np.ndarray, " params"]:
    """Return the weighted mean of the devices' values of one layer.

    It has the same bits for any order of the mappings and any block size, on any machine: products and sums are plain
    float64 operations in the order of the devices' names. Before the result is rounded to float32 its relative error is
    about ``len(rows) * 2**-53`` of the largest value. Rows are read one block of columns at a time, so rows that lie
    in a file never stand in memory as a whole.

    Args:
        rows: Device name -> its values, shape ``(params,)``, float32, finite; arrays, or what reads them from a file.
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
    in_order = [rows[device] for device in devices]
    average = np.empty(num_params, dtype=np.float32)
    for start in range(0, num_params, block_size):
        block = slice(start, min(start + block_size, num_params))
        weighted = WeightedSum(block.stop - start)
        for row, share in zip(in_order, shares, strict=True):
            weighted.add(row[block], share)
        average[block] = weighted.average()
    return average


def _common_length(rows: Mapping[str, Row], devices: list[str]) -> int:
    """Return the number of values in every row."""
    if not devices:
        raise FleetError("cannot average: no device's values were counted")
    num_params = math.prod(rows[devices[0]].shape)
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
