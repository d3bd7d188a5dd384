"""Conflict: on which layers do the devices pull in different directions?

Two devices conflict on a layer if their updates to it form an obtuse angle. The more pairs of a round's cohort do, the
higher the layer's conflict score. From T. Nguyen et al., "Towards Layer-Wise Personalized Federated Learning: Adaptive
Layer Disentanglement via Conflicting Gradients", arXiv:2410.02845, 2024, where the score is written ``GC_xi``.

Differs from the paper: angles are taken between sketches of the updates (``wire.sketches``), so a pair counts only if
its cosine is below ``-2 / sqrt(width)``, twice the error of a sketched cosine; an exact summary keeps the paper's 0.
The score is a share of the pairs, not their number, so that cohorts of different sizes compare; and a pair in which one
device did not move at all counts in neither part of the fraction.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from wire.errors import WireError

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Float64

__all__ = [
    "LayerConflict",
    "alignment",
    "count_conflicts",
    "default_conflict_threshold",
    "layer_conflict",
    "mean_cosine",
    "pairwise_cosine",
]

SKETCH_ERRORS_BELOW_ZERO = 2.0


class LayerConflict(msgspec.Struct, frozen=True):
    """How much a round's cohort disagrees on one layer.

    Args:
        num_conflicts: Pairs of devices whose cosine is below the threshold.
        num_pairs: Pairs of devices that both moved.
        mean_cosine: Over those pairs, in ``[-1, 1]``; 0 without pairs.
    """

    num_conflicts: int
    num_pairs: int
    mean_cosine: float

    @property
    def conflict_score(self) -> float:
        """The share of pairs in conflict, in ``[0, 1]``; 0 without pairs."""
        return self.num_conflicts / self.num_pairs if self.num_pairs else 0.0


def pairwise_cosine(updates: Float[np.ndarray, "devices params"]) -> Float64[np.ndarray, "devices devices"]:
    """Return the cosine similarity of every pair of devices' updates to one layer.

    The sign convention does not matter: negating every row leaves the result unchanged. Nor does a device's step size:
    multiplying a row by a positive number changes nothing but the last bits.

    Args:
        updates: One flattened layer update, or its sketch, per row; shape ``(devices, params)``, in units of the
            parameters.

    Returns:
        Symmetric matrix, shape ``(devices, devices)``, float64 in ``[-1, 1]``, ones on the diagonal. A row of zeros has
        no direction: its cosines are 0 here, and ``count_conflicts`` leaves such pairs out.

    Raises:
        WireError: If ``updates`` is not two-dimensional.

    Example:
        >>> pairwise_cosine(np.array([[1, 0], [-2, 0]], dtype=np.float32))
        array([[ 1., -1.],
               [-1.,  1.]])
    """
    directions, moved = _directions(updates)
    cosines: Float64[np.ndarray, "devices devices"] = np.clip(directions @ directions.T, -1.0, 1.0)
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
    if not conflict_threshold <= 0:
        raise ValueError(f"conflict_threshold must be at most 0, not {conflict_threshold}")
    num_moved = int(np.count_nonzero(moved))
    between = cosines[np.ix_(moved, moved)]
    return int(np.count_nonzero(np.triu(between < conflict_threshold, k=1))), num_moved * (num_moved - 1) // 2


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
    directions, moved = _directions(updates)
    num_moved = int(np.count_nonzero(moved))
    if num_moved < 2:  # noqa: PLR2004 - a pair
        return 0.0
    total = directions.sum(axis=0)
    return min(1.0, (float(total @ total) - num_moved) / (num_moved * (num_moved - 1)))


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
    directions, moved = _directions(updates)
    num_others = max(1, int(np.count_nonzero(moved)) - 1)
    with_others: Float64[np.ndarray, " devices"] = directions @ directions.sum(axis=0) - moved
    return np.clip(with_others / num_others, -1.0, 1.0)


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
    """Return how much the cohort disagrees on one layer: one product of matrices.

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
        LayerConflict(num_conflicts=1, num_pairs=3, mean_cosine=-0.3333333333333333)
    """
    cosines = pairwise_cosine(sketches)
    num_conflicts, num_pairs = count_conflicts(cosines, np.diagonal(cosines) > 0, conflict_threshold)
    return LayerConflict(num_conflicts, num_pairs, mean_cosine(sketches))


def _directions(
    updates: Float[np.ndarray, "devices params"],
) -> tuple[Float64[np.ndarray, "devices params"], Bool[np.ndarray, " devices"]]:
    """Return the rows scaled to unit length, zero rows left as they are, and which rows are not zero."""
    if updates.ndim != 2:  # noqa: PLR2004 - devices and parameters
        raise WireError("wrong-shape", f"updates must have the shape (devices, params), not {updates.shape}")
    rows = updates.astype(np.float64)
    norms = np.linalg.norm(rows, axis=1)
    moved = norms > 0
    return rows / np.where(moved, norms, 1.0)[:, np.newaxis], moved
