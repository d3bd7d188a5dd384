"""A federation: clients by name, each with its own data; and what is refused before anything learns from it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edge_client.dataset import Dataset, Split
from wire.errors import ConfigError, DataError

__all__ = ["Federation", "check_federation", "client_names"]


@dataclass(frozen=True, slots=True, eq=False)
class Federation:
    """Everything that a simulated fleet learns from.

    Args:
        scenario: Its name, for example ``fashion-iid``.
        seed: Decided every draw.
        model: The model that fits, a name for ``simulations.models.load_simulation_model``.
        input_shape: One example's shape.
        num_classes: Number of classes, at least 2.
        clients: Name -> data, sorted by name; float32 inputs, int64 targets.
    """

    scenario: str
    seed: int
    model: str
    input_shape: tuple[int, ...]
    num_classes: int
    clients: dict[str, Dataset]


def client_names(num_clients: int) -> tuple[str, ...]:
    """Return ``client-000``, ``client-001`` and so on: sorted by name is sorted by number.

    Example:
        >>> client_names(2)
        ('client-000', 'client-001')
    """
    width = max(3, len(str(num_clients - 1)))
    return tuple(f"client-{number:0{width}d}" for number in range(num_clients))


def check_federation(federation: Federation) -> tuple[str, ...]:
    """Refuse what cannot be learned from; report what can, and surprises.

    Args:
        federation: What a scenario or a loader made.

    Returns:
        One sentence for each class that nobody trains on, and that a client is to be judged by; empty where all is well.

    Raises:
        ConfigError: If the federation has no clients, no classes or no order.
        DataError: If a client has no training or validation examples, or data that does not fit; the line names it.
    """
    where = federation.scenario
    if not federation.clients:
        raise ConfigError(f"{where} has no clients; ask for at least one")
    if federation.num_classes < 2:  # noqa: PLR2004 - one class leaves nothing to tell apart
        raise ConfigError(f"{where} has {federation.num_classes} classes; a model tells apart two or more")
    if list(federation.clients) != sorted(federation.clients):
        raise ConfigError(f"{where} does not list its clients by name; sort them")
    trained = np.zeros(federation.num_classes, dtype=np.bool_)
    judged: dict[int, str] = {}
    for name, data in federation.clients.items():
        for part, split in (("train", data.train), ("validation", data.validation), ("test", data.test)):
            if split is None:
                continue
            if len(split.targets) == 0 and part != "test":
                raise DataError(f"{where}: {name} has no {part} examples; give it more data, or leave it out")
            _check_split(f"{where}: {name}'s {part} data", split, federation)
        trained[data.train.targets] = True
        for split in (data.validation, data.test):
            for label in () if split is None else np.unique(split.targets).tolist():
                judged.setdefault(label, name)
    return tuple(
        f"class {label} is in no client's training data, but {judged[label]} is judged by it"
        for label in sorted(judged)
        if not trained[label]
    )


def _check_split(where: str, split: Split, federation: Federation) -> None:
    """Refuse wrong shapes and types, values that are not finite, and labels out of range."""
    inputs, targets = split
    shape = (len(targets), *federation.input_shape)
    if targets.ndim != 1 or inputs.shape != shape:
        raise DataError(f"{where} has shapes {inputs.shape} and {targets.shape}, expected {shape} and {shape[:1]}")
    if inputs.dtype != np.float32 or targets.dtype != np.int64:
        raise DataError(f"{where} is {inputs.dtype} with {targets.dtype} labels; make it float32 with int64")
    if not np.isfinite(inputs).all():
        raise DataError(f"{where} holds values that are not finite; clean them, or leave those examples out")
    if targets.size and (targets.min() < 0 or targets.max() >= federation.num_classes):
        raise DataError(
            f"{where} has labels from {targets.min()} to {targets.max()}; "
            f"they must be whole numbers from 0 to {federation.num_classes - 1}"
        )
