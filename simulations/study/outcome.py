"""What running a cell gave."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Literal

import msgspec

__all__ = ["LAST_ROUNDS", "CellOutcome", "ClientOutcome", "RoundOutcome", "Status", "validation_score"]

Status = Literal["done", "diverged", "failed"]

LAST_ROUNDS = 3
"""Reported accuracies are means over the last so many rounds."""


class ClientOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """How one client ended.

    Args:
        client: Its name.
        num_train: Number of its training examples.
        test_accuracy: On its own test examples, mean over the last three rounds; None without test examples.
        bytes_up: What it sent in all rounds: 4 bytes a value of shared layers and of sketches.
        bytes_down: What it received: 4 bytes a value of shared layers.
    """

    client: str
    num_train: int
    test_accuracy: float | None
    bytes_up: int
    bytes_down: int


class RoundOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """How one round went.

    Args:
        round_number: From 1.
        train_loss: Mean over the clients that count, in nats.
        validation_accuracy: Mean over all clients, after the round.
        validation_loss: Mean over all clients, in nats.
        num_diverged: Clients whose training left the numbers.
        personal_layers: Of this round.
        reasons: Layer -> why the decision after this round chose, tested or kept it.
        conflict: Layer -> share of pairs in conflict, where it was measured.
        swap_gains: Candidate -> mean gain in nats, in a round with a test.
    """

    round_number: int
    train_loss: float | None
    validation_accuracy: float
    validation_loss: float
    num_diverged: int
    personal_layers: tuple[str, ...]
    reasons: dict[str, str]
    conflict: dict[str, float | None]
    swap_gains: dict[str, float]


class CellOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """What running a cell gave.

    Args:
        digest: The cell's.
        status: ``done``; ``diverged``: no client's training stayed within the numbers; ``failed``: something broke.
        reason: Why it is not done.
        engine: What trained it, and how many clients at once: their sums round differently.
        wall_s: Duration of its rounds and measurements.
        cpu_s: Processor seconds of the same, of all processes.
        layers: Layer -> number of its parameters.
        clients: One for each, by name.
        rounds: One for each, in order; those before it broke, too.
        warnings: What is surprising in the data.
        versions: Package -> version.
        commit: Of the code, if it is a git checkout; with ``+`` if the checkout had changes.
    """

    digest: str
    status: Status = "done"
    reason: str = ""
    engine: str = ""
    wall_s: float = 0.0
    cpu_s: float = 0.0
    layers: dict[str, int] = {}
    clients: tuple[ClientOutcome, ...] = ()
    rounds: tuple[RoundOutcome, ...] = ()
    warnings: tuple[str, ...] = ()
    versions: dict[str, str] = {}
    commit: str = ""


def validation_score(rounds: Sequence[RoundOutcome]) -> float | None:
    """Return by what a learning rate is chosen: mean validation accuracy over the last three rounds; None without any."""
    last = [it.validation_accuracy for it in rounds[-LAST_ROUNDS:]]
    return statistics.fmean(last) if last else None
