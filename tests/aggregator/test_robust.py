"""Averages that a few hostile devices cannot move far."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import aggregator.robust
from aggregator.averaging import weighted_average
from aggregator.config import AveragingSettings
from aggregator.robust import average_round, krum_choice, update_norms
from simulations.faults.hostile_fleet import run_attack

Rows = dict[str, dict[str, np.ndarray]]
SIZES = {"conv": 7, "fc": 40}


def make_round(seed: int, num_devices: int) -> tuple[Rows, dict[str, np.ndarray], dict[str, float]]:
    rng = np.random.default_rng(seed)
    names = [f"pi-{index}" for index in rng.permutation(num_devices)]
    start = {layer: rng.normal(size=size).astype(np.float32) for layer, size in SIZES.items()}
    shift = {layer: rng.normal(size=size) for layer, size in SIZES.items()}
    rows = {
        layer: {name: (start[layer] + shift[layer] + 0.1 * rng.normal(size=size)).astype(np.float32) for name in names}
        for layer, size in SIZES.items()
    }
    return rows, start, {name: float(rng.integers(1, 100)) for name in names}


def stacked(rows: dict[str, np.ndarray]) -> np.ndarray:
    return np.stack([rows[name] for name in sorted(rows)]).astype(np.float64)


@given(seed=st.integers(0, 10_000), num_devices=st.integers(1, 9))
def test_a_mean_has_the_bits_of_the_weighted_average(seed: int, num_devices: int) -> None:
    rows, start, weights = make_round(seed, num_devices)
    averages = average_round(AveragingSettings(), rows, start.__getitem__, weights)
    for layer, of_layer in rows.items():
        np.testing.assert_array_equal(averages[layer], weighted_average(of_layer, weights))


@given(seed=st.integers(0, 10_000), num_devices=st.integers(1, 9), values=st.sampled_from([1, 8, 1 << 22]))
def test_median_and_trimmed_mean_are_those_of_every_parameter_whatever_the_block(
    seed: int, num_devices: int, values: int
) -> None:
    rows, start, weights = make_round(seed, num_devices)
    cut = int(0.3 * num_devices)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(aggregator.robust, "BLOCK_VALUES", values)
        medians = average_round(AveragingSettings(method="median"), rows, start.__getitem__, weights)
        settings = AveragingSettings(method="trimmed-mean", malicious_share=0.3)
        trimmed = average_round(settings, rows, start.__getitem__, weights)
    for layer, of_layer in rows.items():
        columns = np.sort(stacked(of_layer), axis=0)
        np.testing.assert_allclose(medians[layer], np.median(columns, axis=0), rtol=1e-6)
        np.testing.assert_allclose(trimmed[layer], columns[cut : num_devices - cut].mean(0), rtol=1e-6)


@given(seed=st.integers(0, 10_000), scale=st.floats(-1e6, 1e6))
@pytest.mark.parametrize("method", ["median", "trimmed-mean", "multi-krum"])
def test_what_two_of_ten_devices_send_moves_no_parameter_beyond_the_honest_ones(
    method: str, seed: int, scale: float
) -> None:
    assume(method != "multi-krum" or abs(scale - 1) > 5)  # who sends almost what all send may stay
    rows, start, weights = make_round(seed, 10)
    hostile = sorted(weights)[:2]
    honest = {layer: stacked({it: row for it, row in rows[layer].items() if it not in hostile}) for layer in rows}
    for layer in rows:
        for name in hostile:
            rows[layer][name] = (start[layer] + scale * (rows[layer][name] - start[layer])).astype(np.float32)
    settings = AveragingSettings(method=method, malicious_share=0.2)  # type: ignore[arg-type]
    averages = average_round(settings, rows, start.__getitem__, weights)
    for layer, values in averages.items():
        assert (values >= honest[layer].min(0) - 1e-5).all()
        assert (values <= honest[layer].max(0) + 1e-5).all()


@given(seed=st.integers(0, 10_000), clip_norm=st.floats(0.1, 3))
def test_a_long_update_is_scaled_down_and_a_short_one_keeps_its_bits(seed: int, clip_norm: float) -> None:
    rows, start, weights = make_round(seed, 5)
    (loud, *others) = sorted(weights)
    for layer in rows:
        rows[layer][loud] = (start[layer] + 50 * (rows[layer][loud] - start[layer])).astype(np.float32)
    norms = update_norms(rows, start)
    whole = {name: np.concatenate([rows[layer][name] - start[layer] for layer in rows]) for name in norms}
    for name, update in whole.items():
        assert norms[name] == pytest.approx(float(np.linalg.norm(update.astype(np.float64))), rel=1e-5)
    bound = clip_norm * float(np.median(list(norms.values())))
    alone = {layer: {name: rows[layer][name] for name in [loud, *others]} for layer in rows}
    averages = average_round(AveragingSettings(clip_norm=clip_norm), alone, start.__getitem__, weights)
    total = sum(weights.values())
    for layer in rows:
        expected = start[layer] + sum(
            weights[name]
            / total
            * min(1.0, bound / norms[name])
            * (rows[layer][name].astype(np.float64) - start[layer])
            for name in norms
        )
        np.testing.assert_allclose(averages[layer], expected, rtol=1e-4, atol=1e-5)
    calm = average_round(AveragingSettings(clip_norm=1e9), rows, start.__getitem__, weights)
    for layer, of_layer in rows.items():
        np.testing.assert_array_equal(calm[layer], weighted_average(of_layer, weights))


def test_multi_krum_keeps_those_who_agree_and_all_where_they_are_few() -> None:
    rows, start, weights = make_round(0, 10)
    hostile = sorted(weights)[3:5]
    for layer in rows:
        for name in hostile:
            rows[layer][name] = start[layer] - (rows[layer][name] - start[layer])
    assert krum_choice(rows, start, 0.2) == [name for name in sorted(weights) if name not in hostile]
    assert krum_choice(rows, start, 0.0) == sorted(weights)
    few = {layer: dict(list(of_layer.items())[:3]) for layer, of_layer in rows.items()}
    assert len(krum_choice(few, start, 0.4)) == 3


@pytest.mark.slow
def test_a_fleet_learns_among_hostile_devices_with_a_median_and_not_with_a_mean() -> None:
    assert run_attack("alike", "mean", "scaled", 1).accuracy < 0.5
    assert run_attack("alike", "median", "scaled", 1).accuracy > 0.85
