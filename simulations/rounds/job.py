"""What a round asks of clients, and what they answer: values that can be sent to another process or machine."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from aggregator.averaging import WeightedSum
from simulations.engines.engine import StepRule

__all__ = [
    "Adaptation",
    "EvidenceOrder",
    "MeasureJob",
    "Measured",
    "Phase",
    "TrainJob",
    "Trained",
    "merge_measured",
    "merge_trained",
]


@dataclass(frozen=True)
class Phase:
    """A part of a client's training.

    Args:
        num_epochs: Passes over the training examples, at least 1.
        batch_size: Examples a step.
        rule: Of the steps, for all parameters; what it remembers begins anew in every phase.
        trained: The layers that move; None is all.
    """

    num_epochs: int
    batch_size: int
    rule: StepRule
    trained: frozenset[str] | None = None


@dataclass(frozen=True)
class EvidenceOrder:
    """What is wanted of the updates.

    Args:
        seed: Of the sketches.
        width: Most values of a sketch; None wants the updates themselves, of personal layers, too.
        of_personal: Whether personal layers are sketched, as narrow as on a device.
    """

    seed: int
    width: int | None
    of_personal: bool


@dataclass(frozen=True)
class Adaptation:
    """How clients mix the average with their own layers, see ``simulations.rounds.adaptive``.

    Args:
        layers: The adaptive ones.
        rate: Step size of a mix, above 0.
        data_share: Of the training examples, in ``(0, 1]``.
        seed: Of the order of the examples.
        round_number: The round that begins with it.
        batch_size: Examples a step.
    """

    layers: tuple[str, ...]
    rate: float
    data_share: float
    seed: int
    round_number: int
    batch_size: int


@dataclass(frozen=True, eq=False)
class TrainJob:
    """One round, for some of its cohort.

    Args:
        round_number: From 1.
        seed: Of the order of the examples; None: as they lie.
        clients: Their numbers, in any order.
        shares: Their weights in the average, shape ``(clients,)``; those of the whole cohort add up to 1.
        averages: Layer -> last average, of all layers, float32, shape ``(num_params,)``.
        personal_layers: Those that clients keep; a client without an own version starts from the average.
        phases: How they train.
        swap_candidates: Layers to swap, one at a time.
        testers: The clients that can swap: they trained in the round before.
        kept: Layers of which a client keeps its own version.
        evidence: What is wanted of the updates; None: nothing.
        ditto: Weight of the pull of Ditto's personal models to the shared one; None: there are none.
        adaptation: FedALA's; None: clients start from the average itself.
    """

    round_number: int
    seed: int | None
    clients: tuple[int, ...]
    shares: np.ndarray
    averages: dict[str, np.ndarray]
    personal_layers: tuple[str, ...]
    phases: tuple[Phase, ...]
    swap_candidates: tuple[str, ...] = ()
    testers: frozenset[int] = frozenset()
    kept: tuple[str, ...] = ()
    evidence: EvidenceOrder | None = None
    ditto: float | None = None
    adaptation: Adaptation | None = None


@dataclass(eq=False)
class Trained:
    """What clients answer.

    Args:
        clients: Those whose training stayed within the numbers; rows below are in their order.
        diverged: The others, which neither count nor keep anything.
        losses: Mean over the steps, in nats, shape ``(clients,)``.
        sums: Shared layer -> sum of ``share * values``.
        sketches: Layer -> one row a client.
        norms: Layer -> Euclidean norm of the update, float64, shape ``(clients,)``.
        gains: Candidate -> client -> what its own layer saves it, in nats.
    """

    clients: tuple[int, ...] = ()
    diverged: tuple[int, ...] = ()
    losses: np.ndarray = field(default_factory=lambda: np.zeros(0))
    sums: dict[str, WeightedSum] = field(default_factory=dict)
    sketches: dict[str, np.ndarray] = field(default_factory=dict)
    norms: dict[str, np.ndarray] = field(default_factory=dict)
    gains: dict[str, dict[int, float]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class MeasureJob:
    """A measurement of some clients, with the averages and their own personal layers.

    Args:
        clients: Their numbers.
        split: ``validation`` or ``test``.
        averages: Layer -> last average, of all layers.
        personal_layers: Those of which a client uses its own version, if it has one.
        is_ditto: Whether Ditto's personal models are measured instead.
        adaptation: FedALA's, of the round that would begin now.
        chooses: Whether each client uses its own version of every layer that is better on its validation examples.
    """

    clients: tuple[int, ...]
    split: str
    averages: dict[str, np.ndarray]
    personal_layers: tuple[str, ...]
    is_ditto: bool = False
    adaptation: Adaptation | None = None
    chooses: bool = False


@dataclass(frozen=True, eq=False)
class Measured:
    """How good the clients' models are.

    Args:
        clients: Their numbers; rows below are in their order.
        accuracy: Shape ``(clients,)``, in ``[0, 1]``; nan for a client without examples.
        loss: Mean over the examples, in nats, shape ``(clients,)``.
    """

    clients: tuple[int, ...]
    accuracy: np.ndarray
    loss: np.ndarray


def merge_trained(answers: Iterable[Trained]) -> Trained:
    """Return the answers of several chunks or workers as one; the sums of the first one are added to.

    Sums are added as they come, so that those of many chunks are never there at once.
    """
    sums: dict[str, WeightedSum] = {}
    parts = []
    for answer in answers:
        for layer, values in answer.sums.items():
            if layer in sums:
                sums[layer] += values
            else:
                sums[layer] = values
        parts.append(replace(answer, sums={}))
    merged = Trained(
        tuple(client for part in parts for client in part.clients),
        tuple(client for part in parts for client in part.diverged),
        np.concatenate([part.losses for part in parts]),
        sums,
    )
    for part in parts:
        for layer, gains in part.gains.items():
            merged.gains.setdefault(layer, {}).update(gains)
    merged.sketches = _stacked([part.sketches for part in parts if part.clients])
    merged.norms = _stacked([part.norms for part in parts if part.clients])
    return merged


def merge_measured(answers: Iterable[Measured]) -> Measured:
    """Return the measurements of several chunks or workers as one."""
    parts = list(answers)
    return Measured(
        tuple(client for part in parts for client in part.clients),
        np.concatenate([part.accuracy for part in parts]),
        np.concatenate([part.loss for part in parts]),
    )


def _stacked(parts: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {layer: np.concatenate([part[layer] for part in parts]) for layer in (parts[0] if parts else ())}
