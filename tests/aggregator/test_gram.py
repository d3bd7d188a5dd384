"""Streamed products: as accurate as float64, whatever the scale of the rows, and a few megabytes of memory."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from aggregator import gram
from aggregator.conflict import alignment, layer_conflict, mean_cosine, pairwise_cosine
from aggregator.gram import gram_matrix, sum_directions

NUM_DEVICES, WIDE = 12, 20_011
SCALES = [1e-30, 1e-12, 1.0, 1e12, 1e30]
SEEDS = st.integers(0, 2**32 - 1)


def random_updates(seed: int, *, num_devices: int = NUM_DEVICES, num_params: int = WIDE) -> np.ndarray:
    """Rows with something in common, columns of very different size, all in float32."""
    random = np.random.default_rng(seed)
    rows = random.normal(size=(num_devices, num_params)) + random.uniform(-1, 1) * random.normal(size=num_params)
    return (rows * 10.0 ** random.uniform(-3, 3, size=num_params)).astype(np.float32)


def exact_cosines(updates: np.ndarray) -> np.ndarray:
    rows = updates.astype(np.float64)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    rows /= np.where(norms > 0, norms, 1)
    return np.asarray(rows @ rows.T)


@given(SEEDS, hnp.arrays(np.float64, NUM_DEVICES, elements=st.sampled_from([*SCALES, 0.0, -1.0])))
def test_wide_layers_agree_with_float64_whatever_the_rows_scales(seed: int, scales: np.ndarray) -> None:
    updates = (random_updates(seed) * scales[:, np.newaxis]).astype(np.float32)
    cosines, exact = pairwise_cosine(updates), exact_cosines(updates)
    assert np.array_equal(np.diagonal(cosines), (scales != 0).astype(float))
    assert np.array_equal(cosines, cosines.T)
    np.testing.assert_allclose(cosines, exact, atol=1e-5)
    between = exact - np.diag(np.diagonal(exact))
    num_moved = int(np.count_nonzero(scales))
    np.testing.assert_allclose(alignment(updates), between.sum(axis=1) / max(1, num_moved - 1), atol=1e-12)
    mean = between.sum() / max(1, num_moved * (num_moved - 1))
    assert mean_cosine(updates) == pytest.approx(mean, abs=1e-12)
    assert layer_conflict(updates, 0.0).mean_cosine == pytest.approx(mean, abs=1e-5)


@given(SEEDS)
def test_norms_of_wide_layers_have_an_error_below_one_in_a_million(seed: int) -> None:
    updates = random_updates(seed)
    exact = (updates.astype(np.float64) ** 2).sum(axis=1)
    np.testing.assert_allclose(np.diagonal(gram_matrix(updates)), exact, rtol=1e-6)


@given(SEEDS, st.sampled_from(SCALES))
def test_the_same_row_again_and_its_opposite_have_cosines_of_one_and_minus_one(seed: int, scale: float) -> None:
    row = random_updates(seed, num_devices=1)[0]
    cosines = pairwise_cosine(np.stack([row, -row * np.float32(0.5), row * np.float32(scale), row]))
    assert (np.abs(cosines) <= 1).all()
    np.testing.assert_allclose(cosines[0], [1, -1, 1, 1], atol=1e-6)


@pytest.mark.parametrize("value", [0.1, 1 / 3, 1e-8])
def test_rounding_that_always_goes_the_same_way_stays_small(value: float) -> None:
    updates = np.full((4, 300_000), value, dtype=np.float32)
    updates[1, ::2] *= -1
    updates[2, ::3] *= -1
    np.testing.assert_allclose(pairwise_cosine(updates), exact_cosines(updates), atol=1e-5)


@pytest.mark.parametrize("num_devices", [1, 2, 3, 17, 130])
@pytest.mark.parametrize("num_params", [0, 1, 4_096, 4_097, 8_192, 8_193, 40_000])
def test_blocks_of_any_shape_add_up(num_devices: int, num_params: int) -> None:
    updates = random_updates(7, num_devices=num_devices, num_params=num_params)
    exact = updates.astype(np.float64) @ updates.astype(np.float64).T
    norms = np.sqrt(np.diagonal(exact))
    assert (np.abs(gram_matrix(updates) - exact) <= 1e-6 * np.outer(norms, norms)).all()
    cosines = exact / np.outer(*[np.where(norms > 0, norms, 1)] * 2)
    np.testing.assert_allclose(sum_directions(updates).with_sum, cosines.sum(axis=1), atol=1e-9)


def test_float64_keeps_its_precision_and_half_precision_its_range() -> None:
    updates = random_updates(3).astype(np.float64)
    np.testing.assert_allclose(pairwise_cosine(updates), exact_cosines(updates), atol=1e-14)
    halves = np.full((2, 9_000), 60_000, dtype=np.float16)
    np.testing.assert_allclose(pairwise_cosine(halves), 1.0, atol=1e-12)


def test_narrow_layers_and_sketches_are_as_exact_as_float64() -> None:
    updates = random_updates(5, num_params=gram.MAX_NARROW_PARAMS)
    np.testing.assert_allclose(pairwise_cosine(updates), exact_cosines(updates), atol=1e-14)


def test_the_same_updates_give_the_same_bits_from_memory_and_from_a_file(tmp_path: Path) -> None:
    updates = random_updates(11)
    updates.tofile(tmp_path / "updates")
    stored = np.memmap(tmp_path / "updates", dtype=np.float32, mode="r", shape=updates.shape)
    for function in (pairwise_cosine, alignment):
        assert function(stored).tobytes() == function(updates).tobytes() == function(updates.copy()).tobytes()
    assert mean_cosine(stored) == mean_cosine(updates)


@pytest.mark.parametrize("scale", [1.0, 1e-30])
def test_a_large_layer_needs_a_few_megabytes(tmp_path: Path, scale: float) -> None:
    values = random_updates(13, num_devices=100, num_params=60_000)
    (values * np.float32(scale)).tofile(tmp_path / "updates")
    stored = np.memmap(tmp_path / "updates", dtype=np.float32, mode="r", shape=values.shape)
    del values
    tracemalloc.start()  # the layer takes 24 MB
    pairwise_cosine(stored)
    mean_cosine(stored)
    alignment(stored)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10e6


def test_rows_of_zeros_alone_do_not_cost_a_second_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    updates = random_updates(17)
    updates[3] = 0
    monkeypatch.setattr(gram, "_double_blocks", None)
    assert gram_matrix(updates)[3].tolist() == [0.0] * NUM_DEVICES


def test_products_left_in_float32s_range_would_be_found_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    updates = random_updates(19) * np.float32(1e-30)
    monkeypatch.setattr(gram, "_is_in_single_range", lambda *_: True)
    assert not np.allclose(pairwise_cosine(updates), exact_cosines(updates), atol=1e-5)


def test_blocks_are_added_up_in_float64() -> None:
    updates = np.ones((2, 5 * gram.SINGLE_BLOCK_PARAMS), dtype=np.float32)
    updates[:, : gram.SINGLE_BLOCK_PARAMS] = 4096
    expected = gram.SINGLE_BLOCK_PARAMS * (4096**2 + 4)  # float32 has steps of 16,384 there
    assert gram_matrix(updates).tolist() == [[expected, expected]] * 2
