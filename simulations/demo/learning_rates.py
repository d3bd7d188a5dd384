"""Choosing the demo's learning rates: every arm with every candidate, judged by validation accuracy alone."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from simulations.demo.arms import ARM_NAMES, Arm, learning_rates_json
from simulations.demo.comparison import OnRound, run_demo

__all__ = ["CANDIDATES", "choose_learning_rates"]

CANDIDATES = (0.015, 0.045, 0.135)


def choose_learning_rates(
    seeds: Sequence[int],
    num_rounds: int,
    exported: Path,
    progress: Callable[[Sequence[Arm], int, str], AbstractContextManager[OnRound]],
) -> bytes:
    """Return the file ``learning_rates.json``: for each arm the candidate of the highest validation accuracy.

    Args:
        seeds: The accuracy is the mean over them; take others than those that are reported later.
        num_rounds: Training rounds.
        exported: The folder of ``export_demo``.
        progress: Shows the rounds of some arms while they run.
    """
    found: dict[str, dict[float, list[float]]] = {name: {rate: [] for rate in CANDIDATES} for name in ARM_NAMES}
    for seed in seeds:
        for rate in CANDIDATES:
            arms = [Arm(name, name, rate) for name in ARM_NAMES]
            with progress(arms, num_rounds, f"seed {seed}, learning rate {rate:g},") as on_round:
                results = run_demo(arms, seed=seed, num_rounds=num_rounds, exported=exported, on_round=on_round)
            for name, arm in results.arms.items():
                found[name][rate].append(statistics.fmean(device.validation_accuracy for device in arm.devices))
    means = {name: {rate: statistics.fmean(values) for rate, values in rates.items()} for name, rates in found.items()}
    return learning_rates_json(means)
