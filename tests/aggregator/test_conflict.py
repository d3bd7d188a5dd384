"""Conflict looks at angles alone: not at step sizes, signs or the order of devices."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from aggregator.conflict import (
    LayerConflict,
    alignment,
    count_conflicts,
    default_conflict_threshold,
    layer_conflict,
    mean_cosine,
    pairwise_cosine,
)
from wire.errors import WireError

SHAPES = st.tuples(st.integers(1, 8), st.integers(1, 10))
UPDATES = hnp.arrays(np.float32, SHAPES, elements=st.integers(-50, 50).map(float))
THRESHOLDS = st.floats(-0.9, -0.001)


def moved(updates: np.ndarray) -> np.ndarray:
    return np.asarray(np.abs(updates).max(axis=1) > 0)


def conflicts(updates: np.ndarray, threshold: float) -> tuple[int, int]:
    return count_conflicts(pairwise_cosine(updates), moved(updates), threshold)


def assume_clear_of(updates: np.ndarray, threshold: float) -> None:
    assume(np.abs(pairwise_cosine(updates) - threshold).min() > 1e-9)


@given(UPDATES, st.data())
def test_step_sizes_do_not_change_a_cosine(updates: np.ndarray, data: st.DataObject) -> None:
    factors = data.draw(hnp.arrays(np.float32, (len(updates), 1), elements=st.floats(0.125, 64, width=32)))
    np.testing.assert_allclose(pairwise_cosine(updates * factors), pairwise_cosine(updates), atol=1e-6)


@given(UPDATES)
def test_negating_all_updates_changes_nothing(updates: np.ndarray) -> None:
    assert np.array_equal(pairwise_cosine(-updates), pairwise_cosine(updates))
    assert layer_conflict(-updates, -0.1) == layer_conflict(updates, -0.1)


@given(UPDATES, THRESHOLDS, st.data())
def test_the_order_of_devices_does_not_matter(updates: np.ndarray, threshold: float, data: st.DataObject) -> None:
    assume_clear_of(updates, threshold)
    order = data.draw(st.permutations(range(len(updates))))
    np.testing.assert_allclose(
        pairwise_cosine(updates[order]), pairwise_cosine(updates)[np.ix_(order, order)], atol=1e-12
    )
    assert conflicts(updates[order], threshold) == conflicts(updates, threshold)


@given(UPDATES)
def test_cosines_are_symmetric_in_range_and_one_with_oneself(updates: np.ndarray) -> None:
    cosines = pairwise_cosine(updates)
    np.testing.assert_allclose(cosines, cosines.T, atol=1e-12)
    assert (np.abs(cosines) <= 1).all()
    assert np.array_equal(np.diagonal(cosines), moved(updates).astype(float))


@given(UPDATES, THRESHOLDS)
def test_conflicts_agree_with_a_loop_over_pairs(updates: np.ndarray, threshold: float) -> None:
    assume_clear_of(updates, threshold)
    num_conflicts = num_pairs = 0
    rows = [[float(value) for value in row] for row in updates]
    for u, first in enumerate(rows):
        for second in rows[u + 1 :]:
            norms = math.hypot(*first) * math.hypot(*second)
            if norms > 0:
                num_pairs += 1
                num_conflicts += sum(a * b for a, b in zip(first, second, strict=True)) / norms < threshold
    assert conflicts(updates, threshold) == (num_conflicts, num_pairs)
    assert 0 <= layer_conflict(updates, threshold).conflict_score <= 1


@given(UPDATES, THRESHOLDS, THRESHOLDS)
def test_a_stricter_threshold_never_finds_more(updates: np.ndarray, first: float, second: float) -> None:
    strict, loose = sorted((first, second))
    assert conflicts(updates, strict)[0] <= conflicts(updates, loose)[0]


@given(UPDATES)
def test_mean_and_alignment_agree_with_the_pairs(updates: np.ndarray) -> None:
    cosines, active = pairwise_cosine(updates), moved(updates)
    n = int(active.sum())
    between = cosines - np.diag(np.diagonal(cosines))
    expected = between.sum() / (n * (n - 1)) if n > 1 else 0.0
    assert mean_cosine(updates) == pytest.approx(expected, abs=1e-12)
    np.testing.assert_allclose(alignment(updates), between.sum(axis=1) / max(1, n - 1), atol=1e-12)
    if n > 1:
        assert alignment(updates)[active].mean() == pytest.approx(mean_cosine(updates), abs=1e-12)


def test_a_device_that_did_not_move_leaves_both_parts_of_the_fraction() -> None:
    updates = np.array([[1, 0], [-1, 0.5], [0, 0]], dtype=np.float32)
    assert layer_conflict(updates, 0.0).num_pairs == 1
    assert layer_conflict(updates, 0.0).conflict_score == 1.0
    assert layer_conflict(updates[1:], 0.0) == LayerConflict(0, 0, 0.0)
    assert layer_conflict(updates[1:], 0.0).conflict_score == 0.0


def test_three_devices_by_hand() -> None:
    updates = np.array([[3, 4], [4, 3], [-4, 3]], dtype=np.float32)
    found = layer_conflict(updates, 0.0)
    assert (found.num_conflicts, found.num_pairs) == (1, 3)  # cosines 24/25, 0 and -7/25; a right angle is no conflict
    assert found.mean_cosine == pytest.approx((24 - 7) / 75)
    assert layer_conflict(updates, -0.3).num_conflicts == 0


def test_the_smallest_and_largest_updates_keep_their_angles() -> None:
    tiny, huge = np.float32(1e-45), np.float32(3e38)
    cosines = pairwise_cosine(np.array([[tiny, 0], [-huge, -huge]], dtype=np.float32))
    assert cosines[0, 1] == pytest.approx(-math.sqrt(0.5))


def test_no_devices_have_no_conflict() -> None:
    assert layer_conflict(np.zeros((0, 4), dtype=np.float32), 0.0) == LayerConflict(0, 0, 0.0)


def test_only_sketched_layers_get_a_margin() -> None:
    assert default_conflict_threshold(1_024, 1_024) == 0.0
    assert default_conflict_threshold(1_025, 1_024) == -2 / 32


@pytest.mark.usefixtures("unchecked")
def test_what_is_no_matrix_or_no_obtuse_angle_is_refused() -> None:
    with pytest.raises(WireError, match="wrong-shape"):
        pairwise_cosine(np.zeros(3, dtype=np.float32))
    for threshold in (0.1, float("nan")):
        with pytest.raises(ValueError, match="at most 0"):
            layer_conflict(np.zeros((2, 2), dtype=np.float32), threshold)
