"""What a scenario is, and how one is made from a source, a partition and a shift."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from edge_client.dataset import Dataset
from simulations.data.partitions import classes_per_device, dirichlet, top_up
from simulations.data.pools import Partition, Request, Shift, deal
from simulations.data.sources import Source

__all__ = ["Scenario", "by_classes", "by_dirichlet", "pooled"]

NUM_CLIENTS = 20
FEWEST_EXAMPLES = 20
MOST_DRAWN = 50
"""With more clients, hardly any draw of Dirichlet(0.1) gives each of them enough."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """A way to make clients.

    Args:
        name: Its name.
        about: One line: whose data it is, and how the clients differ.
        model: The model that fits, for ``simulations.models.load_simulation_model``.
        input_shape: One example's shape.
        num_classes: Number of classes.
        make: A request -> name -> data.
    """

    name: str
    about: str
    model: str
    input_shape: tuple[int, ...]
    num_classes: int
    make: Callable[[Request], dict[str, Dataset]]


def pooled(
    name: str, about: str, source: Source, partition: Partition, shift: Shift | None = None, *, model: str | None = None
) -> Scenario:
    """Return a scenario that deals out one source.

    Args:
        name: The scenario's name.
        about: One line: whose data it is, and how the clients differ.
        source: Where examples come from.
        partition: Who gets which.
        shift: What differs from client to client beside that.
        model: The model that fits, where it is not the source's own.
    """
    source = replace(source, model=model or source.model)

    def make(request: Request) -> dict[str, Dataset]:
        return deal(
            source.load(request.folder, request.seed),
            request,
            partition,
            shift=shift,
            prepare=source.prepare,
            input_shape=source.input_shape,
            num_clients=NUM_CLIENTS,
            examples_per_client=source.examples_per_client,
        )

    return Scenario(name, about, source.model, source.input_shape, source.num_classes, make)


def by_dirichlet(alpha: float) -> Partition:
    """Return the partition by Dirichlet draws with this concentration; every client has at least 20 examples.

    Up to 50 clients, draws are made again until this is so; with more, the clients with the most give some away.
    """

    def divide(labels: np.ndarray, num_clients: int, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
        if num_clients <= MOST_DRAWN:
            return dirichlet(labels, num_clients, alpha, rng, min_size=FEWEST_EXAMPLES)
        return top_up(dirichlet(labels, num_clients, alpha, rng, min_size=0), FEWEST_EXAMPLES)

    return divide


def by_classes(num_classes: int) -> Partition:
    """Return the partition that gives every client this many classes."""
    return lambda labels, num_clients, rng: classes_per_device(labels, num_clients, num_classes, rng)
