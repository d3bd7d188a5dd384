"""What a trial found: plain values, from which advice is made without another look at data or model."""

from __future__ import annotations

from typing import Any

import msgspec

__all__ = ["MethodTrial", "TrialResult"]


class MethodTrial(msgspec.Struct, frozen=True, kw_only=True):
    """One method, at the learning rate that validation data chose for it.

    Args:
        method: A selector's name.
        options: The selector's.
        learning_rate: The one of all seeds.
        is_rate_at_edge: Whether it was the smallest or largest of three or more.
        accuracy: Seed -> device -> accuracy on its own test examples, mean over the last three rounds.
        validation: Mean validation accuracy after each round, over devices and seeds.
        bytes_up: What a device sends in a round, mean over rounds, devices and seeds; before compression.
        bytes_down: What it receives.
        personal_layers: Seed -> the layers that were personal in the last round.
    """

    method: str
    options: dict[str, Any]
    learning_rate: float
    is_rate_at_edge: bool
    accuracy: dict[int, dict[str, float]]
    validation: tuple[float, ...]
    bytes_up: float
    bytes_down: float
    personal_layers: dict[int, tuple[str, ...]]


class TrialResult(msgspec.Struct, frozen=True, kw_only=True):
    """A trial.

    Args:
        model: What the user called it.
        data: Where the data lay.
        layers: Layer -> number of its parameters, in the model's order.
        num_rounds: Rounds of every method.
        num_seeds: Each draws other initial values and batches.
        num_found: Devices in the data.
        num_train: Device -> number of training examples; the devices of the trial.
        num_validation: Device -> number of validation examples.
        num_test: Device -> number of test examples.
        methods: Those that came to a result, in the order in which they were tried.
        conflict: Layer -> share of pairs of devices in conflict while everything is shared, mean over rounds and seeds.
        notes: What is surprising in the data.
        failures: What failed and why, one line each.
    """

    model: str
    data: str
    layers: dict[str, int]
    num_rounds: int
    num_seeds: int
    num_found: int
    num_train: dict[str, int]
    num_validation: dict[str, int]
    num_test: dict[str, int]
    methods: tuple[MethodTrial, ...]
    conflict: dict[str, float]
    notes: tuple[str, ...]
    failures: tuple[str, ...]
