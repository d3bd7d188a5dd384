"""The aggregator's configuration: one TOML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from aggregator.evidence import MaliciousShare
from wire.broker_address import BrokerAddress
from wire.messages import DeviceId, TrainingSettings

__all__ = ["AggregatorConfig", "AveragingSettings", "RoundSettings", "Schedule", "SelectorSettings", "check_optimizer"]

Positive = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Seconds = Annotated[float, Meta(gt=0, le=30 * 24 * 3600)]
Schedule = Literal["constant", "linear", "cosine"]


class SelectorSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which rule chooses the personal layers.

    Args:
        name: One of ``aggregator.selection.SELECTOR_NAMES``; ``fedlag`` means ``fedlag-swap``.
        options: The rule's own options; see docs/fedlag.md.
    """

    name: str = "fedlag-swap"
    options: dict[str, Any] = {}


class RoundSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How rounds run.

    Args:
        mode: ``synchronous``, or ``buffered``: late answers count, and a version is made of every ``buffer_size`` of them.
        num_rounds: Training rounds, each of which makes a version, until the fleet has finished; absent: without an end.
        cohort_size: The most devices that are asked in a round.
        quorum: The fewest answers with which a round may close.
        duration_s: After this long a round closes with those who answered, if they make a quorum.
        gather_s: If fewer devices than ``cohort_size`` are ready, a round waits this long for more.
        sketch_width: Most values of one layer's sketch.
        seed: Of cohorts, sketches and the devices' batch orders.
        window_bytes: The most bytes of uploads that are under way at one time.
        schedule: How the learning rate falls over the rounds (``aggregator.schedule``); if it does, they have an end.
        warmup_rounds: Rounds over which it rises first, fewer than there are.
        guard: By what share of itself the devices' validation loss may rise from one version to the next; more makes the fleet go back
            (``aggregator.guard``). Absent: nobody looks.
        buffer_size: In buffered rounds, with so many answers a round closes at once.
        max_staleness: In buffered rounds, by how many versions what an answer began at may be behind.
    """

    mode: Literal["synchronous", "buffered"] = "synchronous"
    num_rounds: Positive | None = None
    cohort_size: Positive = 100
    quorum: Positive = 2
    duration_s: Seconds = 600.0
    gather_s: Seconds = 30.0
    sketch_width: Positive = 1024
    seed: Annotated[int, Meta(ge=0, le=2**53)] = 0
    window_bytes: Positive = 64 * 1024 * 1024
    schedule: Schedule = "constant"
    warmup_rounds: Annotated[int, Meta(ge=0)] = 0
    guard: Annotated[float, Meta(gt=0)] | None = None
    buffer_size: Positive = 10
    max_staleness: Annotated[int, Meta(ge=0, le=100)] = 10

    def __post_init__(self) -> None:
        """Refuse settings that contradict each other."""
        if self.num_rounds is None and self.schedule != "constant":
            raise ValueError(f"a {self.schedule} schedule needs an end: give num_rounds, or take constant")
        if self.num_rounds is not None and self.warmup_rounds >= self.num_rounds:
            raise ValueError(f"a warm-up of {self.warmup_rounds} rounds leaves none of {self.num_rounds}: shorten it")


class AveragingSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How uploads become averages (``aggregator.robust``).

    Args:
        method: ``mean`` by numbers of examples; against hostile or broken devices ``median``, ``trimmed-mean`` or ``multi-krum``.
        malicious_share: Of the devices, that may be hostile or broken: a trimmed mean drops as many at each end, multi-Krum leaves
            as many out, and a selector does not believe so many. Absent: ``ASSUMED_SHARE`` for averages, and selectors believe all.
        clip_norm: Updates longer than so many times the cohort's median are scaled down to it first; absent: none is.
    """

    method: Literal["mean", "median", "trimmed-mean", "multi-krum"] = "mean"
    malicious_share: MaliciousShare | None = None
    clip_norm: Annotated[float, Meta(gt=0)] | None = None


class AggregatorConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the aggregator must be told.

    Args:
        fleet: The fleet's name.
        program: The folder that ``fedlag export`` wrote.
        folder: Where the aggregator keeps its store.
        initial: The model's initial values, a safetensors file; by default the one in ``program``.
        signing_key: The private key that signs plans, a PEM file that its owner alone may read. Absent: they are not signed.
        broker: Where the broker is.
        selector: Which rule chooses the personal layers.
        rounds: How rounds run.
        averaging: How their uploads become averages.
        training: How devices train.
    """

    fleet: DeviceId
    program: Path
    folder: Path
    initial: Path | None = None
    signing_key: Path | None = None
    broker: BrokerAddress = BrokerAddress()
    selector: SelectorSettings = SelectorSettings()
    rounds: RoundSettings = RoundSettings()
    averaging: AveragingSettings = AveragingSettings()
    training: TrainingSettings = TrainingSettings()

    def __post_init__(self) -> None:
        """Refuse settings that contradict each other."""
        rounds = self.rounds
        if rounds.quorum > rounds.cohort_size:
            raise ValueError(f"a quorum of {rounds.quorum} cannot come from {rounds.cohort_size} devices")
        if rounds.mode == "buffered" and not rounds.quorum <= rounds.buffer_size <= rounds.cohort_size:
            raise ValueError(
                f"a buffer_size of {rounds.buffer_size} must lie between the quorum, {rounds.quorum}, and the cohort_size,"
                f" {rounds.cohort_size}"
            )
        check_optimizer(self.training)

    @property
    def initial_values(self) -> Path:
        """The model's initial values."""
        return self.initial or self.program / "initial.safetensors"


def check_optimizer(training: TrainingSettings) -> None:
    """Refuse to look ahead where there is nothing to look along.

    Raises:
        ValueError: If something other than SGD with momentum should.
    """
    if training.nesterov and ((training.optimizer or "sgd") != "sgd" or training.momentum == 0):
        raise ValueError("nesterov looks ahead along the momentum of sgd: take it out, or give sgd a momentum")
