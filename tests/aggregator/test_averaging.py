"""The average of a layer has the same bits whatever happened on the way."""

from __future__ import annotations

import itertools
import math
import pickle
import re
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from aggregator.averaging import WeightedSum, weighted_average
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


def shares_of(weights: dict[str, float]) -> dict[str, float]:
    total = math.fsum(weights.values())
    return {name: weights[name] / total for name in sorted(weights)}


def wide_cohort(seed: int, num_devices: int, num_params: int) -> Cohort:
    random = np.random.default_rng(seed)
    names = [f"device-{index:03}" for index in range(num_devices)]
    rows = {name: random.normal(size=num_params).astype(np.float32) for name in names}
    return rows, {name: float(random.integers(1, 500)) for name in names}


def sum_up(rows: dict[str, np.ndarray], shares: dict[str, float]) -> WeightedSum:
    weighted = WeightedSum(next(iter(rows.values())).size)
    for name, share in shares.items():
        weighted.add(rows[name], share)
    return weighted


ANY_COHORT = cohorts() | st.builds(
    wide_cohort, st.integers(0, 2**32 - 1), st.integers(1, 12), st.sampled_from([1, 2, 65_536, 65_537, 140_000])
)


@given(ANY_COHORT, st.data())
def test_rows_that_come_in_stacks_of_any_size_have_the_bits_of_the_whole(cohort: Cohort, data: st.DataObject) -> None:
    rows, weights = cohort
    shares = shares_of(weights)
    names = list(shares)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(names)), max_size=4)))
    weighted = WeightedSum(rows[names[0]].size)
    for start, stop in itertools.pairwise([0, *cuts, len(names)]):
        chunk = names[start:stop]
        if len(chunk) == 1:
            weighted.add(rows[chunk[0]], shares[chunk[0]])
        elif chunk:
            weighted.add_rows(np.stack([rows[name] for name in chunk]), np.array([shares[name] for name in chunk]))
    expected = weighted_average(rows, weights).tobytes()
    assert weighted.average().tobytes() == sum_up(rows, shares).average().tobytes() == expected


@given(ANY_COHORT, st.data())
def test_parts_of_several_workers_merge_in_any_order(cohort: Cohort, data: st.DataObject) -> None:
    rows, weights = cohort
    shares = shares_of(weights)
    owner = {name: data.draw(st.integers(0, 2)) for name in shares}
    parts = [WeightedSum(next(iter(rows.values())).size) for _ in range(3)]
    for name, share in shares.items():
        parts[owner[name]].add(rows[name], share)
    merged = pickle.loads(pickle.dumps(parts[0]))  # noqa: S301 - our own bytes
    for part in data.draw(st.permutations(parts[1:])):
        merged += part
    largest = float(max(np.abs(row).max() for row in rows.values()))
    np.testing.assert_allclose(merged.average(), weighted_average(rows, weights), rtol=1e-6, atol=largest * 1e-12)


def test_a_sum_is_left_as_it_is_by_its_average_and_by_being_merged() -> None:
    rows, weights = wide_cohort(3, 4, 50)
    shares = shares_of(weights)
    whole, first = sum_up(rows, shares), sum_up(rows, dict(list(shares.items())[:2]))
    rest = sum_up(rows, dict(list(shares.items())[2:]))
    assert whole.average().tobytes() == whole.average().tobytes()
    first += rest
    rest += sum_up(rows, dict(list(shares.items())[:2]))
    np.testing.assert_allclose(first.average(), rest.average(), rtol=1e-6)


def test_strided_rows_and_maps_of_files_may_be_stacked(tmp_path: Path) -> None:
    rows, weights = wide_cohort(5, 6, 70_000)
    stacked = np.asfortranarray(np.stack([rows[name] for name in rows]))
    stacked.T.tofile(tmp_path / "rows")
    stored = np.memmap(tmp_path / "rows", dtype=np.float32, mode="r", shape=(70_000, 6)).T
    weighted = WeightedSum(70_000)
    weighted.add_rows(stored, np.array(list(shares_of(weights).values())))
    assert weighted.average().tobytes() == weighted_average(rows, weights).tobytes()


@pytest.mark.parametrize(("kept", "total"), [(0, "0"), (2, "0.5"), (5, "1.25")])
def test_a_device_that_is_missing_or_counted_twice_is_found(kept: int, total: str) -> None:
    weighted = WeightedSum(2)
    for _ in range(kept):
        weighted.add(ROW, 0.25)
    with pytest.raises(FleetError, match=rf"the shares add up to {re.escape(total)}, not to 1"):
        weighted.average()


@pytest.mark.usefixtures("unchecked")
def test_rows_of_another_shape_do_not_enter_a_sum() -> None:
    weighted = WeightedSum(2)
    with pytest.raises(FleetError, match=r"a row has the shape \(3,\), not \(2,\)"):
        weighted.add(np.ones(3, dtype=np.float32), 1.0)
    with pytest.raises(FleetError, match=r"a row has the shape \(1, 2\), not \(2,\)"):
        weighted.add(ROW.reshape(1, 2), 1.0)
    with pytest.raises(FleetError, match=r"2 rows have the shape \(3, 2\), not \(2, 2\)"):
        weighted.add_rows(np.ones((3, 2), dtype=np.float32), np.ones(2) / 2)
    with pytest.raises(FleetError, match=r"sums of the shapes \(2,\) and \(1,\)"):
        weighted += WeightedSum(1)
    weighted.add(ROW, 1.0)
    assert weighted.average().tolist() == [1.0, 1.0]


def test_a_stack_that_is_summed_pair_by_pair_would_be_found() -> None:
    """Why ``add_rows`` is no product of matrices: its bits would be others."""
    rows, weights = wide_cohort(9, 20, 5_000)
    shares = np.array(list(shares_of(weights).values()))
    product = (shares @ np.stack(list(rows.values())).astype(np.float64)).astype(np.float32)
    assert product.tobytes() != weighted_average(rows, weights).tobytes()


@given(ANY_COHORT, st.data())
def test_those_who_are_present_weigh_as_if_they_had_been_alone(cohort: Cohort, data: st.DataObject) -> None:
    rows, weights = cohort
    shares = shares_of(weights)
    names = data.draw(st.lists(st.sampled_from(list(shares)), min_size=1, unique=True))
    present = {name: shares[name] for name in sorted(names)}
    alone = weighted_average({name: rows[name] for name in names}, {name: weights[name] for name in names})
    average = sum_up(rows, present).average(math.fsum(present.values()))
    largest = float(max(np.abs(row).max() for row in rows.values()))
    np.testing.assert_allclose(average, alone, rtol=1e-6, atol=largest * 1e-12)


@given(cohorts())
def test_devices_that_were_summed_up_elsewhere_count_as_if_they_had_come_one_by_one(cohort: Cohort) -> None:
    rows, weights = cohort
    values, shares = np.stack(list(rows.values())), np.array(list(weights.values())) / sum(weights.values())
    one_by_one, at_once = (WeightedSum(values.shape[1]) for _ in range(2))
    one_by_one.add_rows(values, shares)
    at_once.add_sum(shares @ values.astype(np.float64), float(shares.sum()))
    scale = float(np.abs(values).max())
    assert np.allclose(at_once.average(), one_by_one.average(), rtol=1e-6, atol=1e-6 * scale)


def test_a_sum_of_another_shape_does_not_enter_a_sum() -> None:
    with pytest.raises(FleetError, match=re.escape("a sum has the shape (2,), not (3,)")):
        WeightedSum(3).add_sum(np.zeros(2), 0.5)
