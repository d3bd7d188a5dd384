"""Runs a fleet round by round, and keeps what crossed beside what was secret."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from aggregator.config import AggregatorConfig, RoundSettings, SelectorSettings
from edge_client.dataset import Dataset, Split
from simulations.loopback.fleet import LoopbackFleet
from simulations.loopback.network import Crossing
from simulations.loopback.numpy_program import NumpyProgram, initial_values, perceptron_manifest
from tests.privacy.rebuilding import Rebuilt, Secret, Sketch, rebuild
from wire.messages import Part, RoundPlan, Summary, TrainingSettings
from wire.parts import Assembly
from wire.topics import SUMMARY, decode_payload, parse_topic

NUM_DEVICES = 4
SIZES = (16, 24, 6, 1, 4)  # hidden 408, middle 150, middle2 7, head 8
SKETCH_WIDTH = 300


class WitnessedRound(NamedTuple):
    """A round: its plan, what each device sent while it was in force, and each device's layers after training."""

    plan: RoundPlan
    sent: dict[str, list[Crossing]]
    own: dict[str, dict[str, np.ndarray]]


class Witness:
    """A fleet under observation."""

    def __init__(self, fleet: LoopbackFleet, initial: dict[str, np.ndarray]) -> None:
        self.fleet = fleet
        self._initial = initial
        self._rounds: list[WitnessedRound] = []

    def watch(self, num_rounds: int) -> None:
        """Let rounds pass."""
        for _ in range(num_rounds):
            log, start = self.fleet.network.log, len(self.fleet.network.log)
            plan = self.fleet.aggregator.state.plan
            self.fleet.run(1)
            sent: dict[str, list[Crossing]] = {name: [] for name in self.fleet.devices}
            for crossing in log[start:]:
                if crossing.sender in sent:
                    sent[crossing.sender].append(crossing)
            own = {name: it.generation.own_layers() for name, it in self.fleet.devices.items() if it.generation}
            self._rounds.append(WitnessedRound(plan, sent, own))

    def personal_layers(self) -> set[str]:
        """All layers that were personal in some round."""
        return {layer for it in self._rounds for layer in it.plan.personal_layers}

    def attack(self, device_id: str, layer: str, *, personal: bool = True, is_seed_fresh: bool = False) -> Rebuilt:
        """Attack a device's layer with all that it sent while a plan named the layer personal, or while none did."""
        loot, sketches = [], []
        for index, it in enumerate(self._rounds):
            if (layer in it.plan.personal_layers) is not personal:
                continue
            before = self._rounds[index - 1].own[device_id] if index else self._initial
            start = before[layer] if personal else self._installed(it.plan, index, layer)
            secret = Secret(it.own[device_id][layer], it.own[device_id][layer] - start)
            loot.append((it.sent[device_id], secret))
            seed = it.plan.sketch_seed + it.plan.round_number * is_seed_fresh
            sketches.append(sent_sketch(it.sent[device_id], layer, seed, len(start)))
        return rebuild(loot, sketches, layer)

    def _installed(self, plan: RoundPlan, index: int, layer: str) -> np.ndarray:
        """What a shared layer was at the start of a round, as the aggregator published it."""
        return (
            self._initial[layer]
            if index == 0
            else self.fleet.aggregator.published_layer(layer, plan.shared_layers[layer])
        )


def sent_sketch(crossings: list[Crossing], layer: str, seed: int, num_params: int) -> Sketch | None:
    """Return the sketch of a layer in a device's summary, if there is one that can be one."""
    for crossing in crossings:
        address = parse_topic("home", crossing.topic)
        part = decode_payload(address, crossing.payload)
        if address.route is not SUMMARY or not isinstance(part, Part):
            continue
        data = Assembly(part.digest, 1 << 24).add(part)
        assert data is not None, "a summary in one part is enough for these models"
        summary = msgspec.msgpack.decode(data, type=Summary)
        sketch = summary.layers[layer].sketch
        if sketch and len(sketch) % 4 == 0 and len(sketch) // 4 <= num_params:
            return Sketch(seed, np.frombuffer(sketch, dtype="<f4"))
    return None


def make_witness(selector: str, options: dict[str, Any] | None = None, **training: Any) -> Witness:
    """Return a fleet under observation: ``make_witness("fedper", {"num_personal": 2})``."""
    config = AggregatorConfig(
        fleet="home",
        program=Path("program"),
        folder=Path("folder"),
        selector=SelectorSettings(name=selector, options=options or {}),
        rounds=RoundSettings(
            quorum=NUM_DEVICES - 1, cohort_size=NUM_DEVICES, gather_s=5.0, sketch_width=SKETCH_WIDTH, seed=5
        ),
        training=TrainingSettings(**{"learning_rate": 0.01, "batch_size": 20, **training}),
    )
    rng = np.random.default_rng(2)
    program = NumpyProgram(perceptron_manifest(SIZES))
    initial = initial_values(program.manifest, rng)
    datasets = {f"pi-{index}": make_dataset(rng) for index in range(NUM_DEVICES)}
    return Witness(LoopbackFleet(config, program, initial, datasets), initial)


def make_dataset(rng: np.random.Generator) -> Dataset:
    centers = rng.normal(0, 1.5, (SIZES[-1], SIZES[0]))

    def split(num_examples: int) -> Split:
        targets = rng.integers(SIZES[-1], size=num_examples)
        inputs = centers[targets] + rng.normal(0, 1, (num_examples, SIZES[0]))
        return Split(inputs.astype(np.float32), targets.astype(np.int64))

    return Dataset(split(60), split(30), None)
