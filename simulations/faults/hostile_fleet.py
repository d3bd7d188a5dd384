"""A fleet with hostile devices, and what each defense of the aggregator is worth: accuracy of the honest devices.

Ten devices share handwritten digits (UCI, 8x8 pixels) and train a perceptron of 2,400 parameters together, all layers shared, on
the product's own state machines. Two of them send something else than what they trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np

from aggregator.config import AggregatorConfig, AveragingSettings, RoundSettings, SelectorSettings
from edge_client.dataset import Dataset, Split
from edge_client.training import RoundOutcome, RoundWork
from simulations.data.digits import load_digits
from simulations.data.partitions import classes_per_device, iid
from simulations.faults.attacks import ATTACKS, Attack, Seen
from simulations.loopback.fleet import LoopbackFleet
from simulations.loopback.numpy_program import NumpyProgram, initial_values, perceptron_manifest
from wire.messages import TrainingSettings

__all__ = [
    "DEFENSES",
    "NUM_ROUNDS",
    "AttackRow",
    "Data",
    "honest_accuracy",
    "hostile_names",
    "make_fleet",
    "mean_and_error",
    "run_attack",
]

NUM_DEVICES, DEVICES_PER_HOSTILE, NUM_CLASSES, NUM_ROUNDS = 10, 5, 10, 15
TRAINED_SHARE, VALIDATED_SHARE = 0.45, 0.17
SKEWED_CLASSES = 4
HOSTILE_TRAIN_S = 3.0

Data = Literal["alike", "skewed"]
"""Whether each device sees all digits, or four of them."""

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
        data: Whether the devices' data are ``alike`` or ``skewed``.
        defense: One of ``DEFENSES``.
        attack: One of ``ATTACKS``.
        accuracy: Mean test accuracy of the honest devices with the last averages, in ``[0, 1]``, over the seeds.
        standard_error: Of that mean over the seeds, if there are several.
    """

    data: Data
    defense: str
    attack: str
    accuracy: float
    standard_error: float | None


def run_attack(data: Data, defense: str, attack: str, seeds: int) -> AttackRow:
    """Run a fleet for each seed, from 0, and return what its honest devices came to."""
    accuracies = [_accuracy(data, DEFENSES[defense], ATTACKS[attack], seed) for seed in range(seeds)]
    accuracy, error = mean_and_error(accuracies)
    return AttackRow(data=data, defense=defense, attack=attack, accuracy=accuracy, standard_error=error)


def mean_and_error(values: Sequence[float]) -> tuple[float, float | None]:
    """Return the mean over the seeds, and its standard error if there are several."""
    error = float(np.std(values, ddof=1)) / len(values) ** 0.5 if len(values) > 1 else None
    return float(np.mean(values)), error


def make_fleet(
    data: Data,
    selector: SelectorSettings,
    averaging: AveragingSettings,
    rng: np.random.Generator,
    num_devices: int = NUM_DEVICES,
) -> LoopbackFleet:
    """Return a fleet, all of it honest as yet; ``rng`` decides data and initial values."""
    config = AggregatorConfig(
        fleet="home",
        program=Path("program"),
        folder=Path("folder"),
        selector=selector,
        rounds=RoundSettings(num_rounds=NUM_ROUNDS, cohort_size=num_devices, quorum=num_devices, gather_s=5.0),
        averaging=averaging,
        training=TrainingSettings(learning_rate=0.1, num_epochs=2),
    )
    program = NumpyProgram(perceptron_manifest([64, 32, NUM_CLASSES]))
    datasets = _share_out(data, rng, num_devices)
    return LoopbackFleet(config, program, initial_values(program.manifest, rng), datasets)


def hostile_names(fleet: LoopbackFleet) -> list[str]:
    """Return the devices that turn hostile: one in five."""
    return list(fleet.devices)[: len(fleet.devices) // DEVICES_PER_HOSTILE]


def honest_accuracy(fleet: LoopbackFleet) -> float:
    """Run all rounds; return the honest devices' mean test accuracy with the last averages."""
    report, hostile = fleet.run(NUM_ROUNDS + 1)[-1], hostile_names(fleet)
    measured = [figures.test for name, figures in report.counted.items() if name not in hostile]
    return float(np.mean([it.accuracy for it in measured if it is not None]))


def _accuracy(data: Data, averaging: AveragingSettings, attack: Attack, seed: int) -> float:
    rng = np.random.default_rng([seed, 17])
    fleet = make_fleet(data, SelectorSettings(name="fedavg"), averaging, rng)
    _turn_hostile(fleet, attack, rng)
    return honest_accuracy(fleet)


def _turn_hostile(fleet: LoopbackFleet, attack: Attack, rng: np.random.Generator) -> None:
    """Let hostile devices train longer than the others, so that they know what these will send."""
    heard: dict[str, dict[str, np.ndarray]] = {}
    hostile = hostile_names(fleet)
    for name, device in fleet.devices.items():
        if name in hostile:
            device.train_s, device.tamper = HOSTILE_TRAIN_S, partial(_send_instead, attack, heard, rng)
        else:
            device.tamper = partial(_overhear, heard)


def _overhear(heard: dict[str, dict[str, np.ndarray]], work: RoundWork, outcome: RoundOutcome) -> RoundOutcome:
    heard[work.device_id] = {name: trained - work.installed[name] for name, trained in outcome.own.items()}
    return outcome


def _send_instead(
    attack: Attack,
    heard: dict[str, dict[str, np.ndarray]],
    rng: np.random.Generator,
    work: RoundWork,
    outcome: RoundOutcome,
) -> RoundOutcome:
    sent = {}
    for name, trained in outcome.own.items():
        start = work.installed[name]
        honest = np.stack([updates[name] for updates in heard.values()])
        sent[name] = (start + attack(Seen(trained - start, honest, rng))).astype(np.float32)
    return outcome._replace(own=sent)


def _share_out(data: Data, rng: np.random.Generator, num_devices: int) -> dict[str, Dataset]:
    """Return device -> its part of the digits: of ten devices 80 to train on, 30 to validate, 70 to test each."""
    inputs, targets = load_digits()
    images = inputs.reshape(len(inputs), -1).astype(np.float32)
    images = (images - images.mean()) / images.std()
    if data == "skewed":
        parts = classes_per_device(targets, num_devices, SKEWED_CLASSES, rng)
    else:
        parts = iid(targets, num_devices, rng)

    def split(indices: np.ndarray) -> Split:
        return Split(images[indices], targets[indices].astype(np.int64))

    datasets = {}
    for number, part in enumerate(parts):
        trained, validated = int(TRAINED_SHARE * len(part)), int(VALIDATED_SHARE * len(part))
        pieces = np.split(part, [trained, trained + validated])
        datasets[f"pi-{number}"] = Dataset(*(split(piece) for piece in pieces))
    return datasets
