"""What the fleet, which does no I/O, asks its shell to do. Effects are carried out in order."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from aggregator.guard import GuardState
from aggregator.planning import FleetState
from aggregator.round_report import ClosedRound
from aggregator.staleness import Origins
from wire.messages import Summary
from wire.topics import Envelope

__all__ = [
    "AskCohort",
    "Checkpoint",
    "CloseRound",
    "CommitUpload",
    "Effect",
    "Finished",
    "GoBack",
    "LogLayer",
    "RoundEffect",
]


class LogLayer(NamedTuple):
    """Effect: append a device's values of one layer, shape ``(num_params,)``, float32, to the round log."""

    device_id: str
    layer: str
    values: np.ndarray


class CommitUpload(NamedTuple):
    """Effect: make all that was logged for this device durable, before the next effect."""

    device_id: str
    summary: Summary


RoundEffect = Envelope | LogLayer | CommitUpload


class CloseRound(NamedTuple):
    """Effect: average these layers from the round log (``average_uploads``), and call ``close_round`` with the averages."""

    origins: Origins
    weights: dict[str, float]


class AskCohort(NamedTuple):
    """Effect: make durable who takes part in the round of the plan of this digest, before anybody is invited."""

    plan: str
    cohort: tuple[str, ...]


class Checkpoint(NamedTuple):
    """Effect: make the state, the new layers (digest -> encoded values) and the round that is closed durable, as one.

    The next round's log begins with what ``carried`` names, device and layer, of the log before.
    """

    state: FleetState
    layers: dict[str, bytes]
    closed: ClosedRound | None
    carried: tuple[tuple[str, str], ...] = ()


class GoBack(NamedTuple):
    """Effect: call ``go_on_from`` with a version that is kept, with this of its guard and the round that is over.

    If the version cannot be read: do what is done otherwise.
    """

    version: str
    guard: GuardState
    closed: ClosedRound
    otherwise: CloseRound


class Finished(NamedTuple):
    """Effect: the last round is closed."""


Effect = RoundEffect | AskCohort | CloseRound | Checkpoint | GoBack | Finished
