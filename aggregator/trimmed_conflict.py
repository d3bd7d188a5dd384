"""Conflict that a few devices cannot make up or hide: each device's cosines, and then the devices, without both ends.

A device that lies is in a pair with each of the others, so leaving it out is not enough: of the honest devices' shares
each may be off by what it told them. With ``n`` devices of which ``m`` may lie::

    partners   of a device's n - 1 cosines the m lowest and the m highest are left out; of the rest, how many conflict
    devices    of these n counts the m lowest and the m highest are left out; the score is the rest's share

A device's count is that of its honest partners, less up to ``m``, whatever liars send: between that of all its ``m`` best
and that of all its ``m`` worst honest partners left out. So the score lies between the lowest and the highest of that,
over honest devices: 0 where all of them agree, 1 where all conflict. A conflict of no more than ``m`` devices, which as
many liars could have made up, is not seen. The mean cosine lies between honest pairs' cosines in the same way.

The trimmed mean is that of D. Yin et al., "Byzantine-Robust Distributed Learning", ICML 2018, of numbers instead of parameters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from aggregator.conflict import LayerConflict

if TYPE_CHECKING:
    from jaxtyping import Float, Float64

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
        The counts of the comparisons that are left, of both devices of a pair each; none, if so many liars leave none.

    Example:
        >>> honest = [[1, 0], [2, 1], [3, 0], [1, 1], [2, 0]]
        >>> trimmed_conflict(np.array([*honest, [-9, 0]], dtype=np.float32), 0.0, num_malicious=1).conflict_score
        0.0
        >>> trimmed_conflict(np.array([*honest, [-9, 0]], dtype=np.float32), 0.0, num_malicious=0).conflict_score
        0.3333333333333333
    """
    units = _directions(sketches)
    num_devices = len(units)
    num_partners = num_devices - 1 - 2 * num_malicious
    if num_partners < 1:
        return LayerConflict(0, 0, 0.0)
    counts, means = np.empty(num_devices, dtype=np.int64), np.empty(num_devices)
    step = max(BLOCK_VALUES // num_devices, 1)
    for begin in range(0, num_devices, step):
        cosines = np.clip(units[begin : begin + step] @ units.T, -1.0, 1.0)
        rows = np.arange(len(cosines))
        cosines[rows, begin + rows] = np.inf  # oneself, behind all others
        cosines.sort(axis=1)
        left = cosines[:, num_malicious : num_malicious + num_partners]
        counts[begin : begin + step] = np.count_nonzero(left < conflict_threshold, axis=1)
        means[begin : begin + step] = left.mean(1)
    kept = slice(num_malicious, num_devices - num_malicious)
    num_kept = num_devices - 2 * num_malicious
    return LayerConflict(int(np.sort(counts)[kept].sum()), num_kept * num_partners, float(np.sort(means)[kept].mean()))


def _directions(sketches: Float[np.ndarray, "devices width"]) -> Float64[np.ndarray, "moved width"]:
    """Return the unit vectors of the devices that moved."""
    values = sketches.astype(np.float64)
    norms = np.sqrt(np.einsum("ij,ij->i", values, values))
    directions: Float64[np.ndarray, "moved width"] = values[norms > 0] / norms[norms > 0, None]
    return directions
