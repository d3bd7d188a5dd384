"""Conflict that a few devices cannot make up or hide: it is looked for among the devices that are not at either end.

Of ``n`` devices ``m`` may lie. Left out are the ``m`` that conflict with the most others and the ``m`` that conflict with the
fewest; the score is the share of pairs in conflict among the rest. A device that lies is in a pair with each of the
others, so it must be left out of their counts as well: a mean of the devices' counts without both ends would keep what
liars did to those of the honest ones. Then, whatever ``m`` devices send:

- If they stand out, in conflict with more devices than any honest one or with fewer, the score is one of honest devices alone.
- To stay, a liar must conflict with no more devices than some honest one does. Where honest devices all agree, liars make no
  more than ``m * m`` pairs conflict, of ``(n - 2 m) (n - 2 m - 1) / 2``; where all conflict, they hide no more.

The mean cosine is that of the devices without the ``m`` whose own mean with the others is the lowest, and the highest.

Trimmed means against Byzantine devices are from D. Yin et al., "Byzantine-Robust Distributed Learning", ICML 2018.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from aggregator.conflict import LayerConflict

if TYPE_CHECKING:
    from jaxtyping import Float, Float64, Int64

__all__ = ["trimmed_conflict"]

BLOCK_VALUES = 2**22


def trimmed_conflict(
    sketches: Float[np.ndarray, "devices width"], conflict_threshold: float, num_malicious: int
) -> LayerConflict:
    """Return how much the cohort disagrees on one layer, if so many devices may lie.

    It counts pairs, a block of devices at a time, whatever their number: ``O(devices**2 * width)``. Without liars the score and
    the mean are those of ``layer_conflict`` up to 500 devices.

    Args:
        sketches: One sketch per device, shape ``(devices, width)``, in units of the parameters; a device that did not move
            has no cosines.
        conflict_threshold: A pair conflicts if its cosine is below it; at most 0.
        num_malicious: How many devices may lie, at least 0.

    Returns:
        The counts and the mean of the pairs that are left; none, if so many liars leave no pair.

    Example:
        >>> told = np.array([[1, 0], [2, 1], [3, 0], [1, 1], [2, 0], [-9, 0]], dtype=np.float32)
        >>> trimmed_conflict(told, 0.0, num_malicious=1).conflict_score
        0.0
        >>> trimmed_conflict(told, 0.0, num_malicious=0).conflict_score
        0.3333333333333333
    """
    units = _directions(sketches)
    num_left = len(units) - 2 * num_malicious
    if num_left < 2:  # noqa: PLR2004 - a pair
        return LayerConflict(0, 0, 0.0)
    counts, sums = _conflicts_and_sums(units, conflict_threshold)
    middle = slice(num_malicious, num_malicious + num_left)
    by_conflict, by_cosine = np.lexsort((-sums, counts))[middle], np.argsort(sums, kind="stable")[middle]
    conflicts, _ = _conflicts_and_sums(units[by_conflict], conflict_threshold)
    _, cosines = _conflicts_and_sums(units[by_cosine], conflict_threshold)
    num_pairs = num_left * (num_left - 1) // 2
    return LayerConflict(
        int(conflicts.sum()) // 2, num_pairs, float(np.clip(cosines.sum() / (2 * num_pairs), -1.0, 1.0))
    )


def _directions(sketches: Float[np.ndarray, "devices width"]) -> Float64[np.ndarray, "moved width"]:
    """Return the unit vectors of the devices that moved."""
    values = sketches.astype(np.float64)
    norms = np.sqrt(np.einsum("ij,ij->i", values, values))
    directions: Float64[np.ndarray, "moved width"] = values[norms > 0] / norms[norms > 0, None]
    return directions


def _conflicts_and_sums(
    units: Float64[np.ndarray, "devices width"], conflict_threshold: float
) -> tuple[Int64[np.ndarray, " devices"], Float64[np.ndarray, " devices"]]:
    """Return with how many others each device conflicts, and the sum of its cosines with them."""
    counts, sums = np.empty(len(units), dtype=np.int64), np.empty(len(units))
    for block, cosines in _blocks(units):
        counts[block] = np.count_nonzero(cosines < conflict_threshold, axis=1)
        sums[block] = cosines.sum(1) - 1.0  # without oneself
    return counts, sums


def _blocks(
    units: Float64[np.ndarray, "devices width"],
) -> Iterator[tuple[slice, Float64[np.ndarray, "block devices"]]]:
    """Yield the cosines of some devices with all, a block at a time."""
    step = max(BLOCK_VALUES // len(units), 1)
    for begin in range(0, len(units), step):
        block = slice(begin, begin + step)
        yield block, np.clip(units[block] @ units.T, -1.0, 1.0)
