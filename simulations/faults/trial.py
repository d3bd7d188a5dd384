"""One schedule of faults on a small fleet: what happened, and what did not hold.

Where all must answer, without a deadline that matters, the fleet must end with the bits of a calm run. Where a quorum is
enough, or rounds are buffered, what is counted depends on the faults; then the other invariants are what is left.
"""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np

from aggregator.config import AggregatorConfig, RoundSettings, SelectorSettings
from edge_client.dataset import Dataset, Split
from simulations.faults.invariants import broken_invariants
from simulations.faults.schedule import disturb
from simulations.faults.spec import FaultSpec
from simulations.loopback.fleet import LoopbackFleet
from simulations.loopback.numpy_program import NumpyProgram, initial_values, perceptron_manifest
from wire.errors import FleetError
from wire.messages import TrainingSettings

__all__ = ["Trial", "run_trial"]

LONGEST_S = 3 * 3600.0
NUM_INPUTS, NUM_CLASSES, NUM_DEVICES = 4, 3, 4
SLOW_TRAIN_S = (1.0, 2.0, 5.0, 9.0)
Kind = Literal["quorum", "all", "buffered"]
KINDS: tuple[Kind, ...] = ("quorum", "all", "all", "buffered")
RULES: tuple[tuple[str, dict[str, Any], int], ...] = (
    ("fedavg", {}, 4),
    ("fedper", {"num_personal": 1}, 4),
    ("local", {}, 3),
    ("fedlag-paper", {"num_personal": 1, "num_warmup_rounds": 2}, 4),
    ("fedlag-paper", {"num_personal": 1, "schedule": "every_round"}, 4),
    ("fedlag-swap", {}, 8),
)


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one schedule.

    Args:
        seed: Repeats it.
        selector: The rule that the fleet ran.
        rounds: Whether ``all`` had to answer; in a ``quorum`` two of four were enough after a minute, ``buffered`` rounds
            closed with any two, some of them trained slowly, and what was at most three versions old counted.
        num_messages: That crossed the network.
        minutes: Of simulated time.
        broken: A line for everything that did not hold.
        sha256: Of all that crossed the network, in order.
    """

    seed: int
    selector: str
    rounds: Kind
    num_messages: int
    minutes: float
    broken: tuple[str, ...]
    sha256: str


def run_trial(spec: FaultSpec, seed: int, longest_s: float = LONGEST_S) -> Trial:
    """Run one schedule; the same seed gives the same bytes. A fleet that is not done after so long stands still."""
    which, kind = seed % len(RULES), KINDS[(seed // len(RULES)) % len(KINDS)]
    fleet = _make_fleet(which, kind)
    disturb(fleet, spec, seed)
    broken: list[str] = []
    try:
        fleet.run_until(lambda: len(fleet.aggregator.closed) > RULES[which][2], longest_s)
        if kind == "all" and _outcome(fleet) != _calm_outcome(which):
            broken.append("the fleet ended with other bits than without faults")
    except FleetError as error:
        broken.append(f"the fleet came to a standstill: {error}")
    broken += broken_invariants(fleet)
    log = fleet.network.log
    crossed = hashlib.sha256(b"".join(b"%s %s\n" % (it.topic.encode(), it.payload) for it in log))
    return Trial(
        seed=seed,
        selector=RULES[which][0],
        rounds=kind,
        num_messages=len(log),
        minutes=fleet.network.now_s / 60,
        broken=tuple(broken),
        sha256=crossed.hexdigest(),
    )


class _Outcome(NamedTuple):
    """What faults must not change."""

    plans: list[str]
    counted: list[tuple[str, ...]]
    layers: dict[str, str]
    own: list[dict[str, bytes] | None]


def _outcome(fleet: LoopbackFleet) -> _Outcome:
    reports = [it.report for it in fleet.aggregator.closed]
    return _Outcome(
        [report.plan for report in reports],
        [tuple(report.counted) for report in reports],
        fleet.aggregator.state.layers,
        [None if it.generation is None else it.generation.own for it in fleet.devices.values()],
    )


@functools.cache
def _calm_outcome(which: int) -> _Outcome:
    fleet = _make_fleet(which, "all")
    fleet.run(RULES[which][2] + 1)
    return _outcome(fleet)


def _make_fleet(which: int, kind: Kind) -> LoopbackFleet:
    """Return four devices, each of which sees three classes through a sensor of its own."""
    selector, options, num_rounds = RULES[which]
    config = AggregatorConfig(
        fleet="home",
        program=Path("program"),
        folder=Path("folder"),
        selector=SelectorSettings(name=selector, options=options),
        rounds=RoundSettings(
            mode="buffered" if kind == "buffered" else "synchronous",
            num_rounds=num_rounds,
            cohort_size=NUM_DEVICES,
            quorum=NUM_DEVICES if kind == "all" else 2,
            gather_s=5.0,
            duration_s=120.0 if kind == "all" else 60.0,
            buffer_size=2,
            max_staleness=3,
        ),
        training=TrainingSettings(learning_rate=0.1),
    )
    program = NumpyProgram(perceptron_manifest([NUM_INPUTS, 8, 6, NUM_CLASSES]))
    rng = np.random.default_rng(3)
    datasets = {f"pi-{index}": _make_dataset(rng, 30 + 5 * index) for index in range(NUM_DEVICES)}
    fleet = LoopbackFleet(config, program, initial_values(program.manifest, rng), datasets)
    for device, train_s in zip(fleet.devices.values(), SLOW_TRAIN_S, strict=True):
        device.train_s = train_s if kind == "buffered" else device.train_s
    return fleet


def _make_dataset(rng: np.random.Generator, num_train: int) -> Dataset:
    sensor, _ = np.linalg.qr(rng.normal(size=(NUM_INPUTS, NUM_INPUTS)))
    centers = 3 * np.eye(NUM_CLASSES, NUM_INPUTS)

    def split(num_examples: int) -> Split:
        targets = rng.integers(NUM_CLASSES, size=num_examples)
        inputs = (centers[targets] + rng.normal(0, 1, (num_examples, NUM_INPUTS))) @ sensor
        return Split(inputs.astype(np.float32), targets.astype(np.int64))

    return Dataset(split(num_train), split(30), split(30))
