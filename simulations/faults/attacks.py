"""What hostile devices do to a fleet, and what each defense of the aggregator is worth: accuracy of the honest devices.

Ten devices share handwritten digits (UCI, 8x8 pixels) evenly and train a perceptron of 2,400 parameters together, all layers
shared, on the product's own state machines. Two of ten send something else than what they trained.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
import numpy as np

from aggregator.config import AggregatorConfig, AveragingSettings, RoundSettings, SelectorSettings
from edge_client.dataset import Dataset, Split
from edge_client.training import RoundOutcome, RoundWork
from simulations.data.digits import load_digits
from simulations.loopback.fleet import LoopbackFleet
from simulations.loopback.numpy_program import NumpyProgram, initial_values, perceptron_manifest
from wire.messages import TrainingSettings

__all__ = ["ATTACKS", "DEFENSES", "AttackRow", "run_attack"]

NUM_DEVICES, NUM_HOSTILE, NUM_CLASSES, NUM_ROUNDS = 10, 2, 10, 15
TRAINED, VALIDATED = 80, 30

Attack = Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray]
"""From what a layer was and what it was trained to, to what is sent instead."""

ATTACKS: dict[str, Attack] = {
    "none": lambda _, trained, __: trained,
    "reversed": lambda start, trained, _: start - (trained - start),
    "scaled": lambda start, trained, _: start - 10 * (trained - start),
    "random": lambda start, trained, rng: start + 10 * np.linalg.norm(trained - start) * _direction(start.size, rng),
}
"""``scaled`` is ``reversed``, ten times as long; so is ``random`` as an honest update, in a random direction."""

DEFENSES: dict[str, AveragingSettings] = {
    "mean": AveragingSettings(),
    "mean, clipped": AveragingSettings(clip_norm=1.0),
    "median": AveragingSettings(method="median"),
    "trimmed-mean": AveragingSettings(method="trimmed-mean"),
    "multi-krum": AveragingSettings(method="multi-krum"),
}


class AttackRow(msgspec.Struct, frozen=True, kw_only=True):
    """One defense against one attack.

    Args:
        defense: One of ``DEFENSES``.
        attack: One of ``ATTACKS``.
        accuracy: Mean test accuracy of the honest devices with the last averages, in ``[0, 1]``, over the seeds.
        standard_error: Of that mean over the seeds, if there are several.
    """

    defense: str
    attack: str
    accuracy: float
    standard_error: float | None


def run_attack(defense: str, attack: str, seeds: int) -> AttackRow:
    """Run a fleet for each seed, from 0, and return what its honest devices came to."""
    accuracies = [_accuracy(DEFENSES[defense], ATTACKS[attack], seed) for seed in range(seeds)]
    spread = float(np.std(accuracies, ddof=1)) / seeds**0.5 if seeds > 1 else None
    return AttackRow(defense=defense, attack=attack, accuracy=float(np.mean(accuracies)), standard_error=spread)


def _accuracy(averaging: AveragingSettings, attack: Attack, seed: int) -> float:
    config = AggregatorConfig(
        fleet="home",
        program=Path("program"),
        folder=Path("folder"),
        selector=SelectorSettings(name="fedavg"),
        rounds=RoundSettings(num_rounds=NUM_ROUNDS, cohort_size=NUM_DEVICES, quorum=NUM_DEVICES, gather_s=5.0),
        averaging=averaging,
        training=TrainingSettings(learning_rate=0.1, num_epochs=2),
    )
    program = NumpyProgram(perceptron_manifest([64, 32, NUM_CLASSES]))
    rng = np.random.default_rng([seed, 17])
    datasets = _share_out(rng)
    fleet = LoopbackFleet(config, program, initial_values(program.manifest, rng), datasets)
    for name in list(datasets)[:NUM_HOSTILE]:
        fleet.devices[name].tamper = functools.partial(_tamper, attack, rng)
    report = fleet.run(NUM_ROUNDS + 1)[-1]
    honest = [report.counted[name].test for name in list(datasets)[NUM_HOSTILE:]]
    return float(np.mean([measured.accuracy for measured in honest if measured is not None]))


def _tamper(attack: Attack, rng: np.random.Generator, work: RoundWork, outcome: RoundOutcome) -> RoundOutcome:
    sent: Mapping[str, np.ndarray] = {
        name: attack(work.installed[name], trained, rng).astype(np.float32) for name, trained in outcome.own.items()
    }
    return outcome._replace(own=dict(sent))


def _share_out(rng: np.random.Generator) -> dict[str, Dataset]:
    """Return device -> its part of the digits: 80 to train on, 30 to validate, the rest to test."""
    inputs, targets = load_digits()
    images = inputs.reshape(len(inputs), -1).astype(np.float32)
    images = (images - images.mean()) / images.std()
    parts = np.array_split(rng.permutation(len(images)), NUM_DEVICES)

    def split(indices: np.ndarray) -> Split:
        return Split(images[indices], targets[indices].astype(np.int64))

    return {
        f"pi-{number}": Dataset(
            split(part[:TRAINED]), split(part[TRAINED:][:VALIDATED]), split(part[TRAINED:][VALIDATED:])
        )
        for number, part in enumerate(parts)
    }


def _direction(size: int, rng: np.random.Generator) -> np.ndarray:
    drawn: np.ndarray = rng.normal(size=size)
    return drawn / np.linalg.norm(drawn)
