"""Small fleets whose devices see the world through sensors of their own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import simulations.loopback.device
from aggregator.config import AggregatorConfig, AveragingSettings, RoundSettings, SelectorSettings
from edge_client.dataset import Dataset, Split
from edge_client.program import TrainingProgram
from edge_client.training import RoundOutcome, RoundWork, run_round
from simulations.loopback.fleet import LoopbackFleet
from simulations.loopback.network import Policy, deliver_once
from simulations.loopback.numpy_program import NumpyProgram, initial_values, perceptron_manifest
from wire.messages import TrainingSettings

NUM_INPUTS, NUM_CLASSES = 4, 3

MakeFleet = Callable[..., LoopbackFleet]
Works = dict[tuple[str, int], RoundWork]


def make_dataset(rng: np.random.Generator, sensor: np.ndarray, num_train: int = 40) -> Dataset:
    """Examples of three classes that one device's sensor turns its own way."""
    centers = np.eye(NUM_CLASSES, NUM_INPUTS) * 3

    def split(num_examples: int) -> Split:
        targets = rng.integers(NUM_CLASSES, size=num_examples)
        inputs = (centers[targets] + rng.normal(0, 1, (num_examples, NUM_INPUTS))) @ sensor
        return Split(inputs.astype(np.float32), targets.astype(np.int64))

    return Dataset(split(num_train), split(30), split(30))


def make_datasets(num_devices: int, *, alike: bool = False, seed: int = 3) -> dict[str, Dataset]:
    rng = np.random.default_rng(seed)
    sensors = [np.linalg.qr(rng.normal(size=(NUM_INPUTS, NUM_INPUTS)))[0] for _ in range(num_devices)]
    if alike:
        sensors = [np.eye(NUM_INPUTS)] * num_devices
    return {f"pi-{index}": make_dataset(rng, sensor, 30 + 5 * index) for index, sensor in enumerate(sensors)}


def make_config(
    selector: str = "fedavg",
    options: dict[str, Any] | None = None,
    training: TrainingSettings | None = None,
    averaging: AveragingSettings | None = None,
    **rounds: Any,
) -> AggregatorConfig:
    return AggregatorConfig(
        fleet="home",
        program=Path("program"),
        folder=Path("folder"),
        selector=SelectorSettings(name=selector, options=options or {}),
        rounds=RoundSettings(**{"gather_s": 5.0, "duration_s": 600.0, **rounds}),
        averaging=averaging or AveragingSettings(),
        training=training or TrainingSettings(learning_rate=0.1),
    )


@pytest.fixture(scope="session")
def program() -> NumpyProgram:
    return NumpyProgram(perceptron_manifest([NUM_INPUTS, 8, 6, NUM_CLASSES]))


@pytest.fixture
def make_fleet(program: NumpyProgram) -> MakeFleet:
    """Builds a fleet: ``make_fleet("fedper", num_devices=6, quorum=4)``."""

    def make(
        selector: str = "fedavg",
        options: dict[str, Any] | None = None,
        *,
        num_devices: int = 3,
        alike: bool = False,
        policy: Policy = deliver_once,
        train_s: float = 1.0,
        training: TrainingSettings | None = None,
        averaging: AveragingSettings | None = None,
        is_signed: bool = True,
        **rounds: Any,
    ) -> LoopbackFleet:
        rounds = {"quorum": num_devices, "cohort_size": num_devices, **rounds}
        config = make_config(selector, options, training, averaging, **rounds)
        initial = initial_values(program.manifest, np.random.default_rng(1))
        datasets = make_datasets(num_devices, alike=alike)
        return LoopbackFleet(config, program, initial, datasets, policy=policy, train_s=train_s, is_signed=is_signed)

    return make


@pytest.fixture
def works(monkeypatch: pytest.MonkeyPatch) -> Works:
    """(device, round) -> what it trained from, filled while a fleet runs."""
    seen: Works = {}

    def watched(program: TrainingProgram, data: Dataset, work: RoundWork) -> RoundOutcome:
        seen[work.device_id, work.plan.round_number] = work
        return run_round(program, data, work)

    monkeypatch.setattr(simulations.loopback.device, "run_round", watched)
    return seen
