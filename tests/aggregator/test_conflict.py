"""Conflict looks at angles alone: not at step sizes, signs or the order of devices."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import aggregator.conflict
from aggregator.conflict import (
    LayerConflict,
    alignment,
    count_conflicts,
    count_devices_in_conflict,
    default_conflict_threshold,
    layer_conflict,
    mean_cosine,
    pairwise_cosine,
)
from wire.errors import WireError

SHAPES = st.tuples(st.integers(1, 8), st.integers(1, 10))
UPDATES = hnp.arrays(np.float32, SHAPES, elements=st.integers(-50, 50).map(float))
THRESHOLDS = st.floats(-0.9, -0.001)
SCALES = st.sampled_from([1e-30, 1e-3, 1.0, 1e30])


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
    assert layer_conflict(updates, 0.0).num_compared == 1
    assert layer_conflict(updates, 0.0).conflict_score == 1.0
    assert layer_conflict(updates[1:], 0.0) == LayerConflict(0, 0, 0.0)
    assert layer_conflict(updates[1:], 0.0).conflict_score == 0.0


def test_three_devices_by_hand() -> None:
    updates = np.array([[3, 4], [4, 3], [-4, 3]], dtype=np.float32)
    found = layer_conflict(updates, 0.0)
    assert (found.num_conflicts, found.num_compared) == (
        1,
        3,
    )  # cosines 24/25, 0 and -7/25; a right angle is no conflict
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


def device_law(updates: np.ndarray, threshold: float) -> tuple[int, int]:
    """The law of large cohorts, device by device, with all the others in hand."""
    rows = [row / np.linalg.norm(row) for row in updates.astype(np.float64) if row.any()]
    num_conflicts = 0
    for index, row in enumerate(rows):
        rest = np.sum(rows[:index] + rows[index + 1 :], axis=0) if len(rows) > 1 else np.zeros_like(row)
        length = np.linalg.norm(rest)
        num_conflicts += int(length > 1e-5 and float(row @ rest) < threshold * float(length))
    return num_conflicts, len(rows) if len(rows) > 1 else 0


@given(UPDATES, THRESHOLDS, SCALES)
def test_devices_against_the_rest_agree_with_a_loop_over_devices(
    updates: np.ndarray, threshold: float, scale: float
) -> None:
    scaled = (updates * scale).astype(np.float64)
    expected = [device_law(scaled, near) for near in (threshold - 1e-6, threshold, threshold + 1e-6)]
    assume(expected[0] == expected[1] == expected[2])
    assert count_devices_in_conflict(scaled, threshold) == expected[1]
    assert count_devices_in_conflict(-scaled, threshold) == expected[1]


@given(hnp.arrays(np.float32, (2, 5), elements=st.integers(-9, 9).map(float)), THRESHOLDS)
def test_two_devices_conflict_by_either_law(updates: np.ndarray, threshold: float) -> None:
    assume_clear_of(updates, threshold)
    num_conflicts, num_pairs = conflicts(updates, threshold)
    assert count_devices_in_conflict(updates, threshold) == (2 * num_conflicts, 2 * num_pairs)


@given(UPDATES)
def test_no_angle_is_beyond_a_straight_one(updates: np.ndarray) -> None:
    assert count_devices_in_conflict(updates, -1.0)[0] == 0


def test_a_device_does_not_conflict_with_others_that_cancel() -> None:
    updates = np.array([[3, 4], [1, 0], [-1, 0]], dtype=np.float32)
    assert count_devices_in_conflict(updates, 0.0) == (2, 3)  # the others of 3, 4 cancel
    assert count_devices_in_conflict(updates[1:], 0.0) == (2, 2)
    nearly = np.array([[0, -1], [1, 0], [-1, 1e-7]])  # what is left of the last two is noise
    assert count_devices_in_conflict(nearly, 0.0) == (2, 3)


def test_cohorts_above_five_hundred_are_compared_without_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    updates = np.zeros((502, 40), dtype=np.float32)
    updates[:, 0] = 1
    updates[:9, 0] = -1
    updates[501] = 0
    small = layer_conflict(updates[:500], -0.1)
    assert (small.num_conflicts, small.num_compared) == (9 * 491, 500 * 499 // 2)
    monkeypatch.setattr(aggregator.conflict, "pairwise_cosine", None)
    large = layer_conflict(updates, -0.1)
    assert (large.num_conflicts, large.num_compared) == (9, 501)
    assert large.conflict_score == 9 / 501
    assert large.mean_cosine == pytest.approx(((492 - 9) ** 2 - 501) / (501 * 500))
    assert layer_conflict(np.eye(502, 1, dtype=np.float32), 0.0) == LayerConflict(0, 0, 0.0)  # one that moved


@given(st.integers(501, 700), st.integers(0, 300), st.integers(0, 2**32 - 1))
def test_large_cohorts_find_those_who_go_against_the_rest(num_devices: int, num_against: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    common = random.normal(size=64)
    updates = common + 0.5 * random.normal(size=(num_devices, 64))
    updates[:num_against] *= -1
    found = layer_conflict(updates.astype(np.float32), -0.25)
    num_expected = num_against if 2 * num_against < num_devices else num_devices - num_against
    if abs(num_devices - 2 * num_against) > 20:
        assert found.num_conflicts == num_expected
    assert found.num_compared == num_devices
