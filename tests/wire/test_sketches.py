"""Sketches are linear, keep inner products, and never rebuild a personal layer."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from wire.random import key_from_label, random_words
from wire.sketches import CountSketch, personal_width

NUM_PARAMS = 40
UPDATES = hnp.arrays(np.float32, NUM_PARAMS, elements=st.floats(-100, 100, width=32))
SEEDS = st.integers(0, 2**31)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


@given(SEEDS, UPDATES, UPDATES, st.integers(1, NUM_PARAMS - 1))
def test_the_sketch_of_a_sum_is_the_sum_of_the_sketches(seed: int, a: np.ndarray, b: np.ndarray, width: int) -> None:
    sketch = CountSketch(seed, "fc1", NUM_PARAMS, width)
    np.testing.assert_allclose(sketch.summarize(a + b), sketch.summarize(a) + sketch.summarize(b), atol=2e-3)
    assert np.array_equal(sketch.summarize(-a), -sketch.summarize(a))
    assert np.array_equal(sketch.summarize(a * np.float32(4)), sketch.summarize(a) * np.float32(4))


@given(SEEDS, UPDATES, st.integers(1, NUM_PARAMS - 1))
def test_every_parameter_reaches_the_bucket_that_the_definition_names(
    seed: int, update: np.ndarray, width: int
) -> None:
    expected = np.zeros(width)
    for word, value in zip(
        random_words(key_from_label(f"sketch/{seed}/conv1"), NUM_PARAMS).tolist(), update.tolist(), strict=True
    ):
        expected[((word // 2) * width) // 2**31] += -value if word % 2 else value
    assert np.array_equal(CountSketch(seed, "conv1", NUM_PARAMS, width).summarize(update), expected.astype(np.float32))


def test_golden_sketch_that_every_language_must_give() -> None:
    update = np.arange(1, 13, dtype=np.float32)
    assert CountSketch(7, "conv1", 12, 4).summarize(update).tolist() == [5.0, 5.0, 11.0, 11.0]


def test_inner_products_are_kept_on_average_over_seeds() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=(2, 300)).astype(np.float32)
    width, num_seeds = 16, 2000
    products = [
        float(CountSketch(s, "fc1", 300, width).summarize(a) @ CountSketch(s, "fc1", 300, width).summarize(b))
        for s in range(num_seeds)
    ]
    assert abs(np.mean(products) - float(a @ b)) < 4 * np.std(products) / np.sqrt(num_seeds)


@pytest.mark.parametrize("rho", [-0.5, 0.0, 0.8])
@pytest.mark.parametrize("width", [64, 256])
def test_the_error_of_a_cosine_is_one_minus_rho_squared_over_root_width(rho: float, width: int) -> None:
    rng = np.random.default_rng(11)
    errors = []
    for seed in range(300):
        a, noise = rng.normal(size=(2, 4000))
        b = rho * a + np.sqrt(1 - rho**2) * noise
        a32, b32 = a.astype(np.float32), b.astype(np.float32)
        sketch = CountSketch(seed, "fc1", 4000, width)
        errors.append(cosine(sketch.summarize(a32), sketch.summarize(b32)) - cosine(a32, b32))
    assert np.std(errors) == pytest.approx((1 - rho**2) / np.sqrt(width), rel=0.2)


def test_devices_with_the_same_seed_share_buckets_and_others_do_not() -> None:
    update = np.random.default_rng(0).normal(size=500).astype(np.float32)
    first = CountSketch(1, "conv1", 500, 32).summarize(update)
    assert np.array_equal(first, CountSketch(1, "conv1", 500, 32).summarize(update))
    assert not np.array_equal(first, CountSketch(2, "conv1", 500, 32).summarize(update))
    assert not np.array_equal(first, CountSketch(1, "conv2", 500, 32).summarize(update))


def test_the_order_in_which_layers_are_summarized_is_irrelevant() -> None:
    update = np.random.default_rng(0).normal(size=500).astype(np.float32)
    layers = ["order1", "order2", "order3"]
    forward = [CountSketch(1, layer, 500, 32).summarize(update).tolist() for layer in layers]
    backward = [CountSketch(1, layer, 500, 32).summarize(update).tolist() for layer in reversed(layers)]
    assert forward == backward[::-1]


@given(UPDATES, st.integers(NUM_PARAMS, 3 * NUM_PARAMS))
def test_a_small_shared_layer_is_summarized_exactly(update: np.ndarray, width: int) -> None:
    sketch = CountSketch(7, "head", NUM_PARAMS, width)
    summary = sketch.summarize(update)
    assert sketch.is_exact
    assert sketch.num_values == NUM_PARAMS
    assert summary.tobytes() == update.tobytes()
    assert not np.shares_memory(summary, update)


@given(st.integers(1, 100_000), st.integers(1, 4096))
def test_a_personal_sketch_has_at_most_an_eighth_of_the_layer(num_params: int, width: int) -> None:
    narrow = personal_width(num_params, width)
    assert 0 <= narrow <= min(width, num_params // 8)
    if narrow:
        sketch = CountSketch(7, "head", num_params, narrow, personal=True)
        assert not sketch.is_exact
        assert sketch.num_values == narrow
    if narrow < width:
        with pytest.raises(ValueError, match="personal"):
            CountSketch(7, "head", num_params, width, personal=True)


def test_sketches_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="wide"):
        CountSketch(7, "head", 10, 0)
    with pytest.raises(ValueError, match="parameters"):
        CountSketch(7, "head", 0, 10)
    with pytest.raises(ValueError, match=r"expected shape \(10,\), got \(9,\)"):
        CountSketch(7, "head", 10, 4).summarize(np.zeros(9, dtype=np.float32))
