"""The three workloads on which simulations are timed: models, clients and cohorts, the same in every program.

One round asks 20 of 100 clients; each takes one local epoch over its 100 images in batches of 10, in the order in which
they lie, with plain SGD without momentum, and the server takes the average weighted by examples: 200 client-steps.
Imports nothing but torch and NumPy, because other frameworks' programs read it in an environment of their own.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

if TYPE_CHECKING:
    from jaxtyping import Float32, Int64

__all__ = ["WORKLOADS", "Workload", "cohort", "make_clients", "make_module"]

NUM_CLASSES = 10
SIDE = 28
CLIENTS, COHORTS = 1, 2  # streams of random numbers


@dataclass(frozen=True)
class Workload:
    """What one round of a workload asks for.

    Args:
        name: Its letter, which also names its model.
        about: The model in a few words.
        num_clients: Clients in the fleet.
        cohort_size: Clients that train in a round.
        examples_per_client: Images of every client.
        batch_size: Images in a step.
        num_epochs: Local epochs in a round.
        learning_rate: Of plain SGD.
    """

    name: str
    about: str
    num_clients: int = 100
    cohort_size: int = 20
    examples_per_client: int = 100
    batch_size: int = 10
    num_epochs: int = 1
    learning_rate: float = 0.05

    @property
    def num_steps(self) -> int:
        """The steps of one client in one round."""
        return self.num_epochs * -(-self.examples_per_client // self.batch_size)

    @property
    def num_client_steps(self) -> int:
        """The steps of all clients in one round."""
        return self.cohort_size * self.num_steps


WORKLOADS = {
    it.name: it
    for it in (
        Workload("T", "multilayer perceptron, 25 thousand parameters"),
        Workload("S", "small convolutional network, 55 thousand parameters"),
        Workload("L", "PFLlib's FedAvgCNN, 582 thousand parameters"),
    )
}


def make_module(name: str, seed: int = 0) -> nn.Module:
    """Return a workload's model with initial values that depend on the seed alone.

    Args:
        name: ``"T"``, ``"S"`` or ``"L"``.
        seed: Of the initial values; torch's own generator is left as it was.

    Returns:
        A sequence whose top-level layers are named: ``fc1, head`` for T, ``conv1, conv2, fc1, head`` for the others. Maps
        images ``(batch, 1, 28, 28)`` to logits ``(batch, 10)``.

    Raises:
        ValueError: If there is no such workload.

    Example:
        >>> sum(parameter.numel() for parameter in make_module("T").parameters())
        25450
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if name == "T":
            return nn.Sequential(OrderedDict(_dense(SIDE * SIDE, 32)))
        if name == "S":
            first, second = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 32, 3, padding=1)
            return nn.Sequential(OrderedDict({**_convolutions(first, second), **_dense(1568, 32)}))
        if name == "L":
            first, second = nn.Conv2d(1, 32, 5), nn.Conv2d(32, 64, 5)
            return nn.Sequential(OrderedDict({**_convolutions(first, second), **_dense(1024, 512)}))
    raise ValueError(f"there is no workload {name!r}: take one of {', '.join(WORKLOADS)}")


def make_clients(
    workload: Workload, seed: int = 0
) -> tuple[Float32[torch.Tensor, "clients examples 1 28 28"], Int64[torch.Tensor, "clients examples"]]:
    """Return all clients' images: ten blurred patterns, one for each class, under noise that a model can see through.

    Args:
        workload: Says how many clients and images.
        seed: Of patterns, classes and noise; the same on every machine with the same NumPy.

    Returns:
        Inputs float32 with a mean of about 0 and a deviation of about 1, and targets int64 in ``[0, 10)``, each a tensor
        on the CPU that owns its memory.
    """
    generator = np.random.default_rng([seed, CLIENTS])
    coarse = generator.standard_normal((NUM_CLASSES, SIDE // 4, SIDE // 4), dtype=np.float32)
    patterns = coarse.repeat(4, axis=1).repeat(4, axis=2)
    targets = generator.integers(NUM_CLASSES, size=(workload.num_clients, workload.examples_per_client))
    inputs = generator.standard_normal((*targets.shape, SIDE, SIDE), dtype=np.float32)
    for client, classes in enumerate(targets):  # one by one: there may be ten thousand
        inputs[client] += 0.3 * patterns[classes]
    return torch.from_numpy(inputs[:, :, None]), torch.from_numpy(targets)


def cohort(workload: Workload, round_number: int, seed: int = 0) -> list[int]:
    """Return the clients that train in a round, in ascending order.

    Args:
        workload: Says how many of how many.
        round_number: From 1.
        seed: Of the whole run.

    Returns:
        ``cohort_size`` different indices below ``num_clients``.

    Example:
        >>> len(set(cohort(WORKLOADS["T"], 1)))
        20
    """
    generator = np.random.default_rng([seed, COHORTS, round_number])
    return sorted(generator.choice(workload.num_clients, workload.cohort_size, replace=False).tolist())


def _convolutions(first: nn.Conv2d, second: nn.Conv2d) -> dict[str, nn.Module]:
    """Two convolutions, each halved by a pool."""
    return {
        "conv1": first,
        "relu1": nn.ReLU(),
        "pool1": nn.MaxPool2d(2),
        "conv2": second,
        "relu2": nn.ReLU(),
        "pool2": nn.MaxPool2d(2),
    }


def _dense(num_inputs: int, num_hidden: int) -> dict[str, nn.Module]:
    """A hidden layer and a head over what is flattened."""
    return {
        "flatten": nn.Flatten(),
        "fc1": nn.Linear(num_inputs, num_hidden),
        "relu": nn.ReLU(),
        "head": nn.Linear(num_hidden, NUM_CLASSES),
    }
