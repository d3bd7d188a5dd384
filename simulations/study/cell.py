"""A cell: one scenario, one method, one seed, one learning rate. The unit of work, known by what decides its result."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec

from simulations.rounds.lying import Lie
from simulations.study.config import DataChoice, TrainingRule

__all__ = ["RESULT_FORMAT", "Cell", "PlannedCell", "cell_digest", "setting_of"]

RESULT_FORMAT = 1
"""Rises whenever the same cell gives another result, or a result is written down otherwise; old cells are run again."""

COHORT_DRAW = 2
"""Rises whenever a fleet asks other devices with the same seed; only cells in which not all are asked are run again."""

LATER_TRAINING_OPTIONS = ("optimizer", "nesterov", "weight_decay", "proximal", "schedule", "warmup_rounds")
"""Cells had their names before there were these: they keep them where these say nothing new."""
DEFAULT_TRAINING = TrainingRule()


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """All that decides a result, and where the data lies.

    Args:
        scenario: Whose data it is.
        fingerprint: Digest of the user's own data and model; empty for a scenario that its name and seed decide.
        method: The method's name.
        options: The method's own.
        seed: Decides the draw of the data, the initial values and the batches.
        learning_rate: Of every step.
        num_rounds: How many rounds are run.
        cohort_size: Clients in a round; None is all.
        sketch_width: Most values of one layer's sketch.
        training: How clients train otherwise.
        records_conflict: Whether conflict is measured though the method does not look at it.
        lies: What the liars among the clients say; None: there are none.
    """

    scenario: DataChoice
    fingerprint: str
    method: str
    options: dict[str, Any]
    seed: int
    learning_rate: float
    num_rounds: int
    cohort_size: int | None
    sketch_width: int
    training: TrainingRule
    records_conflict: bool
    lies: Lie | None = None


class PlannedCell(msgspec.Struct, frozen=True, kw_only=True):
    """A cell in a study.

    Args:
        digest: From ``cell_digest``.
        scenario: What the study calls its scenario.
        method: What the study calls its method.
        engine: What is to train it.
        cell: The cell itself.
    """

    digest: str
    scenario: str
    method: str
    engine: str
    cell: Cell


def cell_digest(cell: Cell) -> str:
    """Return the cell's name: a sha256 in hexadecimal over everything that decides its result.

    Where the data lies does not, what lies there does; nor does the engine, nor what a study calls its parts.

    Example:
        >>> cell = Cell(scenario=DataChoice(name="digits-iid"), fingerprint="", method="fedavg", options={}, seed=0,
        ...     learning_rate=0.1, num_rounds=2, cohort_size=None, sketch_width=64, training=TrainingRule(),
        ...     records_conflict=False)
        >>> moved = msgspec.structs.replace(cell, scenario=DataChoice(name="digits-iid", folder="elsewhere"))
        >>> cell_digest(cell) == cell_digest(moved), len(cell_digest(cell))
        (True, 64)
    """
    tree = {"format": RESULT_FORMAT, **msgspec.to_builtins(cell)}
    tree["scenario"].pop("folder")
    if cell.cohort_size is not None:
        tree["draw"] = COHORT_DRAW
    for name in LATER_TRAINING_OPTIONS:
        if tree["training"][name] == getattr(DEFAULT_TRAINING, name):
            tree["training"].pop(name)
    if cell.lies is None:  # cells had their names before there were liars
        tree.pop("lies")
    return hashlib.sha256(msgspec.json.encode(tree, order="deterministic")).hexdigest()


def setting_of(cell: Cell) -> dict[str, Any]:
    """Return what two cells must have in common to be compared: option -> value, all but method, seed and rate."""
    tree = msgspec.to_builtins(cell)
    tree["scenario"].pop("folder")
    tree["data and model"] = tree.pop("fingerprint")
    for own in ("method", "options", "seed", "learning_rate", "records_conflict"):
        tree.pop(own)
    return _flat(tree)


def _flat(tree: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat |= {f"{name}.{inner}": found for inner, found in _flat(value).items()}
        else:
            flat[name] = value
    return flat
