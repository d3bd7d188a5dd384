"""The decision: which rule, how sure, which layers, and what to expect. A pure function of what the trial found.

``fedlag-swap`` is the default because it was never far below the best on the data that it was held to (docs/fedlag.md).
Another rule takes its place only where it is clearly better here: by half a point at least, and by more than 2.5 standard
errors of the paired differences. Four rivals are looked at; at 2.5 errors one of them passes by luck in about one trial
of forty.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from simulations.advise.pairing import Difference, mean_by_device, paired_over_devices
from simulations.advise.result import MethodTrial, TrialResult
from simulations.study.estimates import share_below, worst_decile
from wire.errors import FleetError

__all__ = [
    "CLEAR_ERRORS",
    "DEFAULT_RULE",
    "MARKED_CONFLICT",
    "Advice",
    "Expectation",
    "LayerAdvice",
    "MethodAdvice",
    "make_advice",
]

DEFAULT_RULE = "fedlag-swap"
LOCAL = "local"
CLEAR_ERRORS = 2.5
SMALLEST_GAIN = 0.005
MARKED_CONFLICT = 0.25
"""A quarter of the pairs. Devices that are all alike come to 5 to 17 percent in 30 rounds of digits."""


class MethodAdvice(msgspec.Struct, frozen=True, kw_only=True):
    """One method in figures.

    Args:
        method: A selector's name.
        learning_rate: Chosen on validation data.
        is_rate_at_edge: A better one may lie beyond those tried.
        accuracy: Mean over devices and seeds, on their own test examples; None without test examples.
        worst_decile: Mean of the worst tenth of the devices, mean over seeds.
        harmed: Share of devices below training alone, mean over seeds; None for ``local``, or without it.
        bytes_up: What a device sends in a round, before compression.
        bytes_down: What it receives.
        to_default: Against the default rule; None of itself, or without it.
    """

    method: str
    learning_rate: float
    is_rate_at_edge: bool
    accuracy: float | None
    worst_decile: float | None
    harmed: float | None
    bytes_up: float
    bytes_down: float
    to_default: Difference | None


class LayerAdvice(msgspec.Struct, frozen=True, kw_only=True):
    """One layer.

    Args:
        layer: Its name.
        num_params: Number of its parameters.
        conflict: Share of pairs of devices in conflict while all is shared; None where none could be compared.
        is_in_conflict: Whether that is a quarter or more.
        num_seeds_personal: In how many seeds it ended personal under the advised rule.
    """

    layer: str
    num_params: int
    conflict: float | None
    is_in_conflict: bool
    num_seeds_personal: int


class Expectation(msgspec.Struct, frozen=True, kw_only=True):
    """What the advised rule gave.

    Args:
        accuracy: Mean over devices.
        low: A tenth of the devices are below it.
        high: A tenth of the devices are above it.
        bytes_up: A device sends in a round.
        bytes_down: It receives.
        num_rounds: After which that was so.
    """

    accuracy: float
    low: float
    high: float
    bytes_up: float
    bytes_down: float
    num_rounds: int


class Advice(msgspec.Struct, frozen=True, kw_only=True):
    """What to do.

    Args:
        rule: The selector to use.
        options: Its options.
        learning_rate: To train with.
        is_clear: Whether the trial itself shows that no other rule should be used: the rule is clearly better than the
            default, or the default clearly better than every other one.
        rivals: Methods from which the rule could not be told apart.
        beaten: Methods that are clearly worse than the rule.
        methods: All, in the order in which they were tried.
        layers: All, in the model's order.
        expectation: Of the rule; None without test examples.
        num_seeds: Of the trial.
        num_devices: Of the trial.
    """

    rule: str
    options: dict[str, Any]
    learning_rate: float
    is_clear: bool
    rivals: tuple[str, ...]
    beaten: tuple[str, ...]
    methods: tuple[MethodAdvice, ...]
    layers: tuple[LayerAdvice, ...]
    expectation: Expectation | None
    num_seeds: int
    num_devices: int


def make_advice(result: TrialResult) -> Advice:
    """Return the advice.

    Args:
        result: Of at least one method.

    Raises:
        FleetError: If no method came to a result.
    """
    trials = {it.method: it for it in result.methods}
    if not trials:
        raise FleetError("no method came to a result, so there is nothing to advise; look at the trial's failures")
    chosen = _choose(trials)
    others = [it for it in trials.values() if it.method != chosen.method]
    beaten = tuple(it.method for it in others if _is_clearly_above(chosen, it))
    rivals = tuple(it.method for it in others if it.method not in beaten)
    return Advice(
        rule=chosen.method,
        options=chosen.options,
        learning_rate=chosen.learning_rate,
        is_clear=not rivals or (chosen.method != DEFAULT_RULE and DEFAULT_RULE in beaten),
        rivals=rivals,
        beaten=beaten,
        methods=tuple(_figures(it, trials) for it in trials.values()),
        layers=tuple(_layer(layer, result, chosen) for layer in result.layers),
        expectation=_expectation(chosen, result.num_rounds),
        num_seeds=result.num_seeds,
        num_devices=len(result.num_train),
    )


def _choose(trials: Mapping[str, MethodTrial]) -> MethodTrial:
    """Return the default, or the best of those that are clearly better; without the default the best of all."""
    default = trials.get(DEFAULT_RULE)
    better = [it for it in trials.values() if default is None or _is_clearly_above(it, default)]
    if default is None or better:
        return max(better, key=lambda it: _mean(it) or 0.0)
    return default


def _is_clearly_above(ours: MethodTrial, theirs: MethodTrial) -> bool:
    difference = paired_over_devices(ours.accuracy, theirs.accuracy)
    return difference is not None and difference.is_clear(CLEAR_ERRORS, SMALLEST_GAIN)


def _figures(trial: MethodTrial, trials: Mapping[str, MethodTrial]) -> MethodAdvice:
    default, alone = trials.get(DEFAULT_RULE), trials.get(LOCAL)
    harmed = None
    if alone is not None and alone is not trial:
        shares = [share_below(by, alone.accuracy.get(seed, {})) for seed, by in trial.accuracy.items()]
        known = [share for share in shares if share is not None]
        harmed = statistics.fmean(known) if known else None
    deciles = [worst_decile(list(by.values())) for by in trial.accuracy.values() if by]
    return MethodAdvice(
        method=trial.method,
        learning_rate=trial.learning_rate,
        is_rate_at_edge=trial.is_rate_at_edge,
        accuracy=_mean(trial),
        worst_decile=statistics.fmean(deciles) if deciles else None,
        harmed=harmed,
        bytes_up=trial.bytes_up,
        bytes_down=trial.bytes_down,
        to_default=None if default in (None, trial) else paired_over_devices(trial.accuracy, default.accuracy),
    )


def _layer(layer: str, result: TrialResult, chosen: MethodTrial) -> LayerAdvice:
    conflict = result.conflict.get(layer)
    return LayerAdvice(
        layer=layer,
        num_params=result.layers[layer],
        conflict=conflict,
        is_in_conflict=conflict is not None and conflict >= MARKED_CONFLICT,
        num_seeds_personal=sum(layer in personal for personal in chosen.personal_layers.values()),
    )


def _expectation(chosen: MethodTrial, num_rounds: int) -> Expectation | None:
    values = sorted(mean_by_device(chosen.accuracy).values())
    if not values:
        return None
    return Expectation(
        accuracy=statistics.fmean(values),
        low=_quantile(values, 0.1),
        high=_quantile(values, 0.9),
        bytes_up=chosen.bytes_up,
        bytes_down=chosen.bytes_down,
        num_rounds=num_rounds,
    )


def _quantile(ordered: Sequence[float], share: float) -> float:
    """Return the value below which this share lies, between two values in proportion."""
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def _mean(trial: MethodTrial) -> float | None:
    """Return the mean over seeds of the mean over devices."""
    means = [statistics.fmean(by.values()) for by in trial.accuracy.values() if by]
    return statistics.fmean(means) if means else None
