"""The average of a layer has the same bits whatever happened on the way."""

from __future__ import annotations

from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from aggregator.averaging import weighted_average
from wire.errors import FleetError

VALUES = st.floats(-(2.0**100), 2.0**100, width=32)
WEIGHTS = st.integers(1, 10**6)
Cohort = tuple[dict[str, np.ndarray], dict[str, float]]


@st.composite
def cohorts(draw: st.DrawFn) -> Cohort:
    num_params = draw(st.integers(1, 30))
    names = draw(st.lists(st.text("abc-0", min_size=1, max_size=5), min_size=1, max_size=6, unique=True))
    rows = {name: draw(hnp.arrays(np.float32, num_params, elements=VALUES)) for name in names}
    return rows, {name: float(draw(WEIGHTS)) for name in names}


@given(cohorts(), st.randoms(use_true_random=False), st.integers(1, 40))
def test_order_and_block_size_do_not_change_a_bit(cohort: Cohort, random: Random, block_size: int) -> None:
    rows, weights = cohort
    names = list(rows)
    random.shuffle(names)
    shuffled_rows = {name: rows[name] for name in names}
    random.shuffle(names)
    shuffled_weights = {name: weights[name] for name in names}
    assert (
        weighted_average(shuffled_rows, shuffled_weights, block_size).tobytes()
        == weighted_average(rows, weights).tobytes()
    )


@given(cohorts(), st.sampled_from([0.125, 2.0, 1024.0]))
def test_a_power_of_two_as_the_weights_scale_does_not_change_a_bit(cohort: Cohort, scale: float) -> None:
    rows, weights = cohort
    scaled = {name: weight * scale for name, weight in weights.items()}
    assert weighted_average(rows, scaled).tobytes() == weighted_average(rows, weights).tobytes()


@given(cohorts(), st.floats(1e-6, 1e6))
def test_the_weights_scale_does_not_matter(cohort: Cohort, scale: float) -> None:
    rows, weights = cohort
    scaled = {name: weight * scale for name, weight in weights.items()}
    largest = max(np.abs(row).max() for row in rows.values())
    np.testing.assert_allclose(
        weighted_average(rows, scaled), weighted_average(rows, weights), rtol=1e-6, atol=float(largest) * 1e-12
    )


@given(cohorts())
def test_the_average_lies_between_the_smallest_and_the_largest(cohort: Cohort) -> None:
    rows, weights = cohort
    average, stacked = weighted_average(rows, weights), np.stack(list(rows.values()))
    assert (stacked.min(axis=0) <= average).all()
    assert (average <= stacked.max(axis=0)).all()


@given(cohorts())
def test_the_average_agrees_with_exact_arithmetic(cohort: Cohort) -> None:
    rows, weights = cohort
    total = sum(weights.values())
    exact = np.sum([rows[name].astype(np.longdouble) * weights[name] for name in rows], axis=0) / total
    largest = float(max(np.abs(row).max() for row in rows.values()))
    np.testing.assert_allclose(weighted_average(rows, weights), exact.astype(float), rtol=1e-7, atol=largest * 1e-14)


def test_a_device_that_weighs_nothing_changes_nothing() -> None:
    one = {"a": np.array([1.5, -2], dtype=np.float32)}
    two = one | {"b": np.array([7, 7], dtype=np.float32)}
    assert weighted_average(two, {"a": 3.0, "b": 0.0}).tolist() == weighted_average(one, {"a": 1.0}).tolist()


def test_rows_may_be_maps_of_files(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(3, 1000)).astype(np.float32)
    values.tofile(tmp_path / "rows")
    stored = np.memmap(tmp_path / "rows", dtype=np.float32, mode="r", shape=(3, 1000))
    weights = {"a": 1.0, "b": 2.0, "c": 3.0}
    mapped = weighted_average(dict(zip("abc", stored, strict=True)), weights, block_size=64)
    assert mapped.tobytes() == weighted_average(dict(zip("abc", values, strict=True)), weights).tobytes()


ROW = np.ones(2, dtype=np.float32)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("rows", "weights", "message"),
    [
        ({}, {}, "no device"),
        ({"a": ROW, "b": np.ones(3, dtype=np.float32)}, {"a": 1.0, "b": 1.0}, r"b has the shape \(3,\), not \(2,\)"),
        ({"a": ROW.reshape(1, 2)}, {"a": 1.0}, r"a has the shape \(1, 2\)"),
        ({"a": ROW}, {"b": 1.0}, "missing for a, b"),
        ({"a": ROW, "b": ROW}, {"a": 1.0}, "missing for b"),
        ({"a": ROW, "b": ROW}, {"a": 1.0, "b": -1.0}, "weight of b is -1"),
        ({"a": ROW}, {"a": float("nan")}, "weight of a is nan"),
        ({"a": ROW}, {"a": float("inf")}, "weight of a is inf"),
        ({"a": ROW}, {"a": 0.0}, "all weights are 0"),
    ],
)
def test_what_has_no_average_is_refused(rows: dict[str, np.ndarray], weights: dict[str, float], message: str) -> None:
    with pytest.raises(FleetError, match=message):
        weighted_average(rows, weights)


def test_a_block_without_columns_is_refused() -> None:
    with pytest.raises(ValueError, match="block_size"):
        weighted_average({"a": ROW}, {"a": 1.0}, block_size=0)
