"""One pool of examples, dealt out to clients: each trains on its own part, and is judged on others of its own mix.

The draws of one seed come in a fixed order, which is that of the study of layer choices: the pool's examples, the
partition, four group permutations, then client by client its test examples and its shift. So two scenarios with the same
partition give their clients the same examples.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from edge_client.dataset import Dataset, Split
from simulations.data.federation import client_names
from wire.errors import ConfigError, DataError

__all__ = ["Draw", "Partition", "Pool", "Request", "Shift", "deal", "draw_like"]

NUM_GROUPS = 4
FEWEST_VALIDATION = 5
VALIDATION_SHARE = 3
MANY_CLIENTS = 100
FIRST_SEED = 1000
"""The study's own seeds begin here, so seed 0 here gives its first federation."""


class Pool(NamedTuple):
    """Examples of one source, before anyone owns them.

    Args:
        x_train: Shape ``(examples, ...)``, any real dtype.
        y_train: Classes, shape ``(examples,)``, int64.
        x_test: Examples to report on.
        y_test: Their classes.
        num_classes: Number of classes.
    """

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    num_classes: int


class Draw(NamedTuple):
    """What a shift may depend on.

    Args:
        client: The client's number, from 0.
        groups: The label permutations of four groups, shape ``(4, num_classes)``.
        rng: Draws what is the client's own.
    """

    client: int
    groups: np.ndarray
    rng: np.random.Generator


Partition = Callable[[np.ndarray, int, np.random.Generator], tuple[np.ndarray, ...]]
"""Labels, number of clients, generator -> each client's examples; see ``simulations.data.partitions``."""

Shift = Callable[[Draw], Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]]
"""A draw -> one client's own change of inputs (float32, before their last reshape) and labels."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a user asks of a scenario; None is the scenario's own default.

    Args:
        seed: Decides every draw.
        num_clients: Number of clients.
        examples_per_client: Mean number of training and validation examples together.
        validation_examples: The most validation examples that a client keeps; its training examples stay what they are.
        folder: Where the data lies.
    """

    seed: int
    num_clients: int | None = None
    examples_per_client: int | None = None
    validation_examples: int | None = None
    folder: Path | None = None

    def __post_init__(self) -> None:
        """Refuse numbers below their least."""
        for name, least in (("seed", 0), ("num_clients", 1), ("examples_per_client", 2), ("validation_examples", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"{name} must be at least {least}, not {value}")


def draw_like(
    own_labels: np.ndarray, labels: np.ndarray, num_examples: int, num_classes: int, rng: np.random.Generator
) -> np.ndarray:
    """Draw examples with the mix of labels that a client has.

    Args:
        own_labels: The client's classes, shape ``(examples,)``, at least one.
        labels: The classes to draw from.
        num_examples: How many to draw; fewer, where a class has too few of them for this mix.
        num_classes: Number of classes.
        rng: Decides which.

    Returns:
        Indices into ``labels``, each at most once, class by class.

    Raises:
        DataError: If one of the client's classes is not among ``labels``.
    """
    shares = np.bincount(own_labels, minlength=num_classes) / len(own_labels)
    available = np.bincount(labels, minlength=num_classes)
    held = shares > 0
    missing = np.flatnonzero(held & (available == 0))
    if len(missing):
        raise DataError(f"no test example is of class {missing[0]}, which a client trains on; leave the class out")
    wanted = shares * min(num_examples, int((available[held] / shares[held]).min()))
    counts = np.floor(wanted).astype(int)
    most = np.argsort(-(wanted - counts))
    counts[most[: round(wanted.sum()) - counts.sum()]] += 1
    return np.concatenate(
        [
            rng.choice(np.flatnonzero(labels == label), counts[label], replace=False)
            for label in range(num_classes)
            if counts[label]
        ]
    )


def deal(
    pool: Pool,
    request: Request,
    partition: Partition,
    *,
    shift: Shift | None = None,
    prepare: Callable[[np.ndarray], np.ndarray],
    input_shape: tuple[int, ...],
    num_clients: int,
    examples_per_client: int | None,
) -> dict[str, Dataset]:
    """Give every client its part of a pool: a third for validation, and 200 test examples of the same mix of labels.

    Args:
        pool: Where the examples come from. From 100 clients on, each has 60 test examples.
        request: The seed, and what differs from the defaults.
        partition: Decides who gets which.
        shift: What differs from client to client beside that.
        prepare: Makes examples of the pool float32.
        input_shape: One example's shape at the end.
        num_clients: How many, where the request does not say.
        examples_per_client: How many on average, where the request does not say; None deals out all.

    Returns:
        Name -> data, sorted by name.

    Raises:
        ConfigError: If the pool is too small for this, or the partition cannot be.
        DataError: If a class has no test examples.
    """
    clients = request.num_clients or num_clients
    each = request.examples_per_client or examples_per_client or len(pool.y_train) // clients
    if each * clients > len(pool.y_train):
        raise ConfigError(
            f"{clients} clients of {each} examples need {each * clients}, the data has {len(pool.y_train)}: "
            f"ask for at most {len(pool.y_train) // clients} examples per client, or fewer clients"
        )
    rng = np.random.default_rng(FIRST_SEED + request.seed)
    chosen = rng.permutation(len(pool.y_train))[: each * clients]
    x, y = pool.x_train[chosen], pool.y_train[chosen]
    parts = partition(y, clients, rng)
    groups = np.stack([rng.permutation(pool.num_classes) for _ in range(NUM_GROUPS)])
    num_test = 200 if clients < MANY_CLIENTS else 60
    data: dict[str, Dataset] = {}
    for client, (name, part) in enumerate(zip(client_names(clients), parts, strict=True)):
        test = draw_like(y[part], pool.y_test, num_test, pool.num_classes, rng)
        change = shift(Draw(client, groups, rng)) if shift else _leave
        own, judged = (
            _split(*change(prepare(inputs), targets), input_shape)
            for inputs, targets in ((x[part], y[part]), (pool.x_test[test], pool.y_test[test]))
        )
        cut = min(max(FEWEST_VALIDATION, round(len(part) / VALIDATION_SHARE)), len(part) - 1)
        kept = min(cut, request.validation_examples or cut)
        train, validation = Split(own.inputs[cut:], own.targets[cut:]), Split(own.inputs[:kept], own.targets[:kept])
        data[name] = Dataset(train, validation, judged)
    return data


def _split(inputs: np.ndarray, targets: np.ndarray, input_shape: tuple[int, ...]) -> Split:
    return Split(np.ascontiguousarray(inputs.reshape(-1, *input_shape)), targets)


def _leave(inputs: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Change nothing."""
    return inputs, targets
