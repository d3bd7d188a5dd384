"""Conflict: on which layers do the devices pull in different directions?

Two devices conflict on a layer if their updates to it form an obtuse angle. The more pairs of a round's cohort do, the
higher the layer's conflict score. From T. Nguyen et al., "Towards Layer-Wise Personalized Federated Learning: Adaptive
Layer Disentanglement via Conflicting Gradients", arXiv:2410.02845, 2024, where the score is written ``GC_xi``.

Differs from the paper: angles are taken between sketches of the updates (``wire.sketches``), so a pair counts only if
its cosine is below ``-2 / sqrt(width)``, twice the error of a sketched cosine; an exact summary keeps the paper's 0.
The score is a share of the pairs, not their number, so that cohorts of different sizes compare; and a pair in which one
device did not move at all counts in neither part of the fraction. A cohort of more than 500 devices has too many pairs:
there each device is held against all the others at once (``count_devices_in_conflict``).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from aggregator.gram import DirectionSums, gram_matrix, sum_directions

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Float64

__all__ = [
    "LayerConflict",
    "alignment",
    "count_conflicts",
    "count_devices_in_conflict",
    "default_conflict_threshold",
    "layer_conflict",
    "mean_cosine",
    "pairwise_cosine",
]

SKETCH_ERRORS_BELOW_ZERO = 2.0
MAX_PAIRED_DEVICES = 500
NEGLIGIBLE_REST_PER_DEVICE = 1e-6
ROUNDING = 1e-9


class LayerConflict(msgspec.Struct, frozen=True):
    """How much a round's cohort disagrees on one layer.

    What is compared, and may conflict, are the pairs of devices that both moved; with more than 500 devices, each device
    that moved with all the others.

    Args:
        num_conflicts: Of those comparisons, how many found an angle beyond the threshold.
        num_compared: All of them: ``n (n - 1) / 2`` pairs of ``n`` devices that moved, or ``n`` devices; 0 for fewer
            than two.
        mean_cosine: Over all pairs of devices that moved, in ``[-1, 1]``; 0 without pairs.
    """

    num_conflicts: int
    num_compared: int
    mean_cosine: float

    @property
    def conflict_score(self) -> float:
        """The share of comparisons in conflict, in ``[0, 1]``; 0 without any."""
        return self.num_conflicts / self.num_compared if self.num_compared else 0.0


def pairwise_cosine(updates: Float[np.ndarray, "devices params"]) -> Float64[np.ndarray, "devices devices"]:
    """Return the cosine similarity of every pair of devices' updates to one layer.

    The sign convention does not matter: negating every row leaves the result unchanged. Nor does a device's step size:
    multiplying a row by a positive number changes nothing but the last bits. It runs at the speed of one product of
    matrices and reads the columns block by block (``aggregator.gram``).

    Args:
        updates: One flattened layer update, or its sketch, per row; shape ``(devices, params)``, finite, in units of the
            parameters. May be a map of a file.

    Returns:
        Symmetric matrix, shape ``(devices, devices)``, float64 in ``[-1, 1]``, ones on the diagonal; its error is about
        1e-7 for more than 4,096 float32 columns, else 1e-15. A row of zeros has no direction: its cosines are 0 here,
        and ``count_conflicts`` leaves such pairs out.

    Raises:
        WireError: If ``updates`` is not two-dimensional.

    Example:
        >>> pairwise_cosine(np.array([[1, 0], [-2, 0]], dtype=np.float32))
        array([[ 1., -1.],
               [-1.,  1.]])
    """
    cosines = gram_matrix(updates)
    norms = np.sqrt(np.diagonal(cosines))
    moved = norms > 0
    cosines /= np.outer(np.where(moved, norms, 1.0), np.where(moved, norms, 1.0))
    np.clip(cosines, -1.0, 1.0, out=cosines)
    np.fill_diagonal(cosines, moved)
    return cosines


def count_conflicts(
    cosines: Float64[np.ndarray, "devices devices"], moved: Bool[np.ndarray, " devices"], conflict_threshold: float
) -> tuple[int, int]:
    """Return how many pairs of devices conflict, and out of how many.

    A pair is counted once. A pair with a device that did not move leaves both numbers.

    Args:
        cosines: From ``pairwise_cosine``.
        moved: Whether a device's update has a direction, shape ``(devices,)``.
        conflict_threshold: A pair conflicts if its cosine is below it; at most 0. At -1 or below no pair can.

    Returns:
        ``(num_conflicts, num_pairs)``, with ``0 <= num_conflicts <= num_pairs``.

    Raises:
        ValueError: If the threshold is above 0, where identical updates of noise would conflict.

    Example:
        >>> cosines = pairwise_cosine(np.array([[1, 0], [-2, 0], [0, 0]], dtype=np.float32))
        >>> count_conflicts(cosines, np.array([True, True, False]), 0.0)
        (1, 1)
    """
    _check_threshold(conflict_threshold)
    num_moved = int(np.count_nonzero(moved))
    between = cosines[np.ix_(moved, moved)]
    return int(np.count_nonzero(np.triu(between < conflict_threshold, k=1))), num_moved * (num_moved - 1) // 2


def count_devices_in_conflict(
    updates: Float[np.ndarray, "devices params"], conflict_threshold: float
) -> tuple[int, int]:
    """Return how many devices conflict with the rest of the cohort, and out of how many, without forming the pairs.

    A device is in conflict if its update and the sum of the others' directions form an angle whose cosine is below the
    threshold. With unit rows ``g`` and their sum ``S`` that is::

        cos(g_u, S - g_u) = <g_u, S - g_u> / |S - g_u|  <  conflict_threshold

    or, in other words, the device's ``alignment`` is below the threshold times ``|S - g_u| / (n - 1)``, the length of the
    others' mean direction: 1 where they all agree, about ``1 / sqrt(n - 1)`` where they are at right angles. A sketch
    changes this cosine by as much as that of a pair, so the same threshold serves. For ``n = 2`` the law is that of
    pairs. A device does not conflict with others whose directions cancel: whose sum is no longer than ``1e-6 n``.

    Args:
        updates: One update or sketch per row, shape ``(devices, params)``.
        conflict_threshold: At most 0. At -1 or below no device can conflict.

    Returns:
        ``(num_conflicts, num_devices)``: of the devices that moved, those in conflict, and all; ``(0, 0)`` if fewer than
        two moved.

    Raises:
        WireError: If ``updates`` is not two-dimensional.
        ValueError: If the threshold is above 0.

    Example:
        >>> count_devices_in_conflict(np.array([[1, 0], [-2, 1], [4, 1], [0, 0]], dtype=np.float32), 0.0)
        (1, 3)
    """
    return _count_devices(sum_directions(updates), conflict_threshold)


def mean_cosine(updates: Float[np.ndarray, "devices params"]) -> float:
    """Return the mean cosine over all pairs of devices that moved, without forming the pairs.

    With the ``n`` rows that are not zero scaled to unit length ``g``, it is ``(|sum g|^2 - n) / (n (n - 1))``.

    Args:
        updates: One update or sketch per row, shape ``(devices, params)``.

    Returns:
        In ``[-1 / (n - 1), 1]``; 0 if fewer than two devices moved.

    Raises:
        WireError: If ``updates`` is not two-dimensional.

    Example:
        >>> mean_cosine(np.array([[1, 0], [-2, 0], [0, 3]], dtype=np.float32))
        -0.3333333333333333
    """
    sums = sum_directions(updates)
    return _mean_of_pairs(sums.square, sums.num_moved)


def alignment(updates: Float[np.ndarray, "devices params"]) -> Float64[np.ndarray, " devices"]:
    """Return each device's mean cosine with the others that moved, without forming the pairs.

    With unit rows ``g`` it is ``<g_u, sum g - g_u> / (n - 1)``; its mean over those that moved is ``mean_cosine``.

    Args:
        updates: One update or sketch per row, shape ``(devices, params)``.

    Returns:
        Shape ``(devices,)``, float64 in ``[-1, 1]``; 0 for a device that did not move, or is alone in moving.

    Raises:
        WireError: If ``updates`` is not two-dimensional.

    Example:
        >>> alignment(np.array([[1, 0], [-2, 0], [0, 3]], dtype=np.float32))
        array([-0.5, -0.5,  0. ])
    """
    sums = sum_directions(updates)
    return np.clip(sums.with_rest / max(1, sums.num_moved - 1), -1.0, 1.0)


def default_conflict_threshold(num_params: int, width: int) -> float:
    """Return the threshold below which a cosine is a conflict and not an error of the sketch.

    Args:
        num_params: Number of the layer's parameters.
        width: Number of values that a device sent for it.

    Returns:
        ``-2 / sqrt(width)``; 0 if the values are the update itself.

    Example:
        >>> default_conflict_threshold(100_000, 1_024), default_conflict_threshold(650, 650)
        (-0.0625, 0.0)
    """
    return 0.0 if width >= num_params else -SKETCH_ERRORS_BELOW_ZERO / math.sqrt(width)


def layer_conflict(sketches: Float[np.ndarray, "devices width"], conflict_threshold: float) -> LayerConflict:
    """Return how much the cohort disagrees on one layer.

    Up to 500 devices that is one product of matrices and counts pairs (``count_conflicts``); with more it takes two
    passes, ``O(devices * width)``, and counts devices (``count_devices_in_conflict``).

    Args:
        sketches: One sketch per device, shape ``(devices, width)``, in units of the parameters.
        conflict_threshold: A pair conflicts if its cosine is below it; at most 0.

    Returns:
        The counts and the mean; the order of the devices, and a common sign, do not matter.

    Raises:
        WireError: If ``sketches`` is not two-dimensional.
        ValueError: If the threshold is above 0.

    Example:
        >>> layer_conflict(np.array([[1, 0], [-2, 0], [0, 3]], dtype=np.float32), 0.0)
        LayerConflict(num_conflicts=1, num_compared=3, mean_cosine=-0.3333333333333333)
    """
    if len(sketches) > MAX_PAIRED_DEVICES:
        sums = sum_directions(sketches)
        num_conflicts, num_devices = _count_devices(sums, conflict_threshold)
        return LayerConflict(num_conflicts, num_devices, _mean_of_pairs(sums.square, sums.num_moved))
    cosines = pairwise_cosine(sketches)
    moved = np.diagonal(cosines) > 0
    num_conflicts, num_pairs = count_conflicts(cosines, moved, conflict_threshold)
    return LayerConflict(num_conflicts, num_pairs, _mean_of_pairs(float(cosines.sum()), int(np.count_nonzero(moved))))


def _check_threshold(conflict_threshold: float) -> None:
    """Refuse a threshold at which identical updates of noise would conflict."""
    if not conflict_threshold <= 0:
        raise ValueError(f"conflict_threshold must be at most 0, not {conflict_threshold}")


def _mean_of_pairs(square: float, num_moved: int) -> float:
    """Return the mean cosine over pairs, from the sum over all ordered pairs, each device with itself included."""
    if num_moved < 2:  # noqa: PLR2004 - a pair
        return 0.0
    return min(1.0, (square - num_moved) / (num_moved * (num_moved - 1)))


def _count_devices(sums: DirectionSums, conflict_threshold: float) -> tuple[int, int]:
    """Return the devices in conflict with the rest, and all; what is below by rounding alone is no conflict."""
    _check_threshold(conflict_threshold)
    if sums.num_moved < 2:  # noqa: PLR2004 - somebody, and somebody else
        return 0, 0
    rest_norms = sums.rest_norms
    has_rest = sums.moved & (rest_norms > NEGLIGIBLE_REST_PER_DEVICE * sums.num_moved)
    cosines = np.clip(sums.with_rest / np.where(has_rest, rest_norms, 1.0), -1.0, 1.0)
    return int(np.count_nonzero(has_rest & (cosines < conflict_threshold - ROUNDING))), sums.num_moved
