"""Stale updates: what they began with, how much they count, and that without any all is as it was."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.averaging import weighted_average
from aggregator.config import AveragingSettings
from aggregator.planning import FleetState
from aggregator.robust import average_round
from aggregator.staleness import Origin, average_uploads, origins_of, staleness_factor
from tests.aggregator.test_store import make_state
from wire.codec import plan_digest
from wire.messages import Measurement, RoundPlan, Summary

METHODS = ["mean", "median", "trimmed-mean", "multi-krum"]
LAYERS = {"conv": 5, "fc": 11}
MEASURED = Measurement(1.0, 0.5, 10)


class Made:
    """Uploads of some devices that began at any of five versions."""

    def __init__(self, seed: int, num_devices: int, *, share_stale: float = 0.5) -> None:
        rng = np.random.default_rng(seed)
        self.values = {
            (layer, f"{layer}-{version}"): rng.normal(size=size).astype(np.float32)
            for layer, size in LAYERS.items()
            for version in range(5)
        }
        names = [f"pi-{index}" for index in rng.permutation(num_devices)]
        self.weights = {name: float(rng.integers(1, 90)) for name in names}
        self.staleness = {name: int(rng.integers(5)) if rng.random() < share_stale else 0 for name in names}
        self.current = {layer: f"{layer}-4" for layer in LAYERS}
        self.origins = {
            layer: {name: Origin(f"{layer}-{4 - self.staleness[name]}", self.staleness[name]) for name in names}
            for layer in LAYERS
        }
        self.rows = {
            layer: {
                name: (self.values[layer, origin.start] + 0.1 * rng.normal(size=LAYERS[layer])).astype(np.float32)
                for name, origin in of_layer.items()
            }
            for layer, of_layer in self.origins.items()
        }

    def averages(self, **settings: Any) -> dict[str, np.ndarray]:
        return average_uploads(
            AveragingSettings(**settings),
            self.origins,
            self.weights,
            self.current,
            lambda layer, devices: {name: self.rows[layer][name] for name in devices},
            lambda layer, digest: self.values[layer, digest],
        )


@given(st.integers(0, 10_000), st.integers(1, 8), st.sampled_from(METHODS), st.sampled_from([None, 1.0]))
def test_without_a_stale_update_averages_have_the_bits_of_a_synchronous_round(
    seed: int, num_devices: int, method: str, clip_norm: float | None
) -> None:
    made = Made(seed, num_devices, share_stale=0.0)
    settings = AveragingSettings(method=method, clip_norm=clip_norm)  # type: ignore[arg-type]
    expected = average_round(settings, made.rows, lambda it: made.values[it, made.current[it]], made.weights)
    found = made.averages(method=method, clip_norm=clip_norm)
    for layer in LAYERS:
        np.testing.assert_array_equal(found[layer], expected[layer])


@given(st.integers(0, 10_000), st.integers(1, 8))
def test_the_mean_adds_each_update_by_its_examples_and_its_age(seed: int, num_devices: int) -> None:
    made = Made(seed, num_devices)
    total = sum(made.weights.values())
    for layer, average in made.averages().items():
        expected = made.values[layer, made.current[layer]].astype(np.float64)
        for name, origin in made.origins[layer].items():
            update = made.rows[layer][name].astype(np.float64) - made.values[layer, origin.start]
            expected = expected + made.weights[name] / total * update / np.sqrt(1 + origin.staleness)
        np.testing.assert_allclose(average, expected, rtol=1e-5, atol=1e-6)


@given(st.integers(0, 10_000), st.integers(1, 8), st.sampled_from(METHODS), st.randoms(use_true_random=False))
def test_the_order_of_arrival_changes_no_bit(seed: int, num_devices: int, method: str, random: Any) -> None:
    made, shuffled = Made(seed, num_devices), Made(seed, num_devices)
    for layer in LAYERS:
        names = [*shuffled.origins[layer]]
        random.shuffle(names)
        shuffled.origins[layer] = {name: shuffled.origins[layer][name] for name in names}
    for layer, average in made.averages(method=method, clip_norm=2.0).items():
        np.testing.assert_array_equal(shuffled.averages(method=method, clip_norm=2.0)[layer], average)


@given(st.integers(0, 10_000), st.integers(2, 8), st.sampled_from(METHODS), st.data())
def test_a_layer_is_averaged_over_the_devices_that_sent_it(
    seed: int, num_devices: int, method: str, data: st.DataObject
) -> None:
    made = Made(seed, num_devices)
    kept = data.draw(st.sets(st.sampled_from(sorted(made.weights)), min_size=1))
    made.origins["fc"] = {name: origin for name, origin in made.origins["fc"].items() if name in kept}
    averages = made.averages(method=method, clip_norm=5.0)
    assert {"conv"} <= set(averages) <= set(LAYERS)
    if method != "multi-krum":  # which looks at all layers of a device
        average = made.averages(method=method)["fc"]
        made.origins = {"fc": made.origins["fc"]}
        np.testing.assert_array_equal(average, made.averages(method=method)["fc"])


@given(st.integers(0, 10_000), st.integers(3, 8))
def test_clipping_bounds_what_a_stale_liar_adds(seed: int, num_devices: int) -> None:
    made = Made(seed, num_devices)
    liar = min(made.weights)
    for layer in LAYERS:
        made.rows[layer][liar] = made.rows[layer][liar] + np.float32(1e6)
    averages = made.averages(clip_norm=1.0)
    moved = [np.linalg.norm(averages[layer] - made.values[layer, made.current[layer]]) for layer in LAYERS]
    assert max(moved) < 2.0  # an honest update is .1 of each value


def test_an_update_counts_the_less_the_older_it_is() -> None:
    factors = [staleness_factor(staleness) for staleness in range(101)]
    assert factors[0] == 1.0
    assert all(after < before for before, after in itertools.pairwise(factors))
    assert factors[100] == pytest.approx(1 / np.sqrt(101))


def plan(round_number: int, shared: str, *, epoch: int = 0, max_staleness: int = 3) -> RoundPlan:
    """A plan that shares the layers whose first letters are given."""
    layers = {layer: f"{round_number:02}{layer}".encode().hex().ljust(64, "0") for layer in ("conv", "fc", "head")}
    return msgspec.structs.replace(
        make_state(round_number).plan,
        epoch=epoch,
        shared_layers={name: digest for name, digest in layers.items() if name[0] in shared},
        personal_layers={name: digest for name, digest in layers.items() if name[0] not in shared},
        max_staleness=max_staleness,
    )


def summary(answered: RoundPlan) -> Summary:
    return Summary(
        plan=plan_digest(answered), epoch=answered.epoch, round_number=answered.round_number, num_examples=1,
        num_steps=1, train_loss=0.0, layers={}, before=MEASURED, after=MEASURED,
    )  # fmt: skip


def test_a_round_averages_what_both_the_answered_plan_and_its_own_share() -> None:
    old, own = plan(4, "cf"), plan(6, "ch")
    plans = {plan_digest(it): it for it in (old, own)}
    origins = origins_of(own, plans, {"attic": summary(old), "hall": summary(own)})
    assert origins == {
        "conv": {"attic": Origin(old.shared_layers["conv"], 2), "hall": Origin(own.shared_layers["conv"], 0)},
        "head": {"hall": Origin(own.shared_layers["head"], 0)},
    }
    assert origins_of(own, plans, {"attic": summary(plan(4, "cf"))}).keys() == {"conv"}


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(1, 9)), unique=True, max_size=8).map(sorted), st.integers(0, 5)
)
def test_only_plans_of_this_epoch_and_within_the_staleness_can_be_answered(
    places: list[tuple[int, int]], max_staleness: int
) -> None:
    earlier = tuple(plan(number, "c", epoch=epoch) for epoch, number in places)
    current = plan(10, "c", epoch=2, max_staleness=max_staleness)
    state: FleetState = msgspec.structs.replace(make_state(10), plan=current, earlier_plans=earlier)
    assert [*state.answerable][-1] == plan_digest(current)
    found = {it.round_number for it in state.answerable.values()} - {10}
    assert found == {number for epoch, number in places if epoch == 2 and 10 - number <= max_staleness}
    assert state.digests >= {digest for it in earlier for digest in it.shared_layers.values()}


@given(st.integers(0, 10_000), st.integers(1, 8))
def test_fresh_rows_are_averaged_as_they_are_beside_stale_ones(seed: int, num_devices: int) -> None:
    made = Made(seed, num_devices)
    fresh = {name: 1.0 for name, staleness in made.staleness.items() if staleness == 0}
    if fresh:
        made.origins = {layer: {name: of_layer[name] for name in fresh} for layer, of_layer in made.origins.items()}
        for layer, average in made.averages().items():
            rows = {name: made.rows[layer][name] for name in fresh}
            np.testing.assert_array_equal(average, weighted_average(rows, {name: made.weights[name] for name in fresh}))
