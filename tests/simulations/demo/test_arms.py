"""The demo's learning rates: what was measured decides, and the committed file holds both."""

from __future__ import annotations

from importlib import resources

import msgspec

from simulations.demo.arms import ARM_NAMES, LearningRates, chosen_arms, learning_rates_json


def test_the_rate_of_the_highest_validation_accuracy_wins_and_of_equals_the_lower() -> None:
    data = learning_rates_json({"fedavg": {0.1: 0.7, 0.01: 0.8}, "local": {0.1: 0.5, 0.01: 0.5}})
    assert msgspec.json.decode(data, type=LearningRates).chosen == {"fedavg": 0.01, "local": 0.01}


def test_the_committed_choice_follows_from_the_committed_measurements() -> None:
    data = resources.files("simulations.demo").joinpath("learning_rates.json").read_bytes()
    rates = msgspec.json.decode(data, type=LearningRates)
    measured = {
        name: {float(rate): value for rate, value in found.items()} for name, found in rates.validation_accuracy.items()
    }
    assert learning_rates_json(measured) == data
    assert {arm.name: arm.learning_rate for arm in chosen_arms()} == rates.chosen
    assert tuple(rates.chosen) == ARM_NAMES
