"""Small models, clients of different sizes, and what every engine must make of them."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from edge_client.dataset import Dataset, Split
from export.models import TrainableModel
from simulations.engines.batches import Batches, gather_batches
from simulations.engines.engine import Engine, StepRule
from simulations.engines.model import SimulatedModel, Stack, install, simulate_model, take_clients
from simulations.engines.population import Population, ResidentSplit, gather_population
from simulations.models import load_simulation_model
from simulations.resnets import ResNet9

BATCH_SIZE = 5
COUNTS = (23, 12, 11, 10, 3)
"""Examples of each client: 5, 3, 3, 2 and 1 steps, some with an incomplete last batch."""

RULES = {
    "plain": StepRule(0.05),
    "momentum, clipped": StepRule(0.05, 0.9, 0.5),
    "proximal": StepRule(0.05, proximal=0.3),
    "all at once": StepRule(0.05, 0.5, 1.0, 0.1),
    "nesterov": StepRule(0.05, 0.9, is_nesterov=True, weight_decay=0.1),
    "adamw": StepRule(0.01, 0.9, 0.5, optimizer="adamw", weight_decay=0.1),
}


def tanh_perceptron(sizes: Sequence[int]) -> nn.Module:
    """Return ``simulations.loopback.numpy_program``'s perceptron as a torch module, with the same names."""
    hidden = ["hidden", "middle", *(f"middle{index}" for index in range(2, len(sizes)))]
    names = [*hidden[: len(sizes) - 2], "head"]
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for name, inputs, outputs in zip(names, sizes[:-1], sizes[1:], strict=True):
        layers[name] = nn.Linear(inputs, outputs)
        if name != "head":
            layers[f"{name}_tanh"] = nn.Tanh()
    return nn.Sequential(layers)


def _tanh() -> TrainableModel:
    return TrainableModel(tanh_perceptron([6, 8, 5, 4]), (6,), 4)


def _norms() -> TrainableModel:
    module = nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2, bias=False),
        nn.GroupNorm(2, 4),
        nn.ReLU(),
        nn.Conv2d(4, 6, 2),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(24, 3, bias=False),
    )
    return TrainableModel(module, (2, 7, 7), 3)


MODELS: dict[str, Callable[[], TrainableModel]] = {
    "tanh": _tanh,
    "norms": _norms,
    "letter-mlp": lambda: load_simulation_model("letter-mlp"),
    "fashion14-cnn": lambda: load_simulation_model("fashion14-cnn"),
    "tiles-cnn": lambda: load_simulation_model("tiles-cnn"),
    "watch-cnn": lambda: load_simulation_model("watch-cnn"),
    "image-cnn": lambda: load_simulation_model("image-cnn"),
    "resnet9-gn": lambda: TrainableModel(ResNet9(1, 3), (1, 6, 6), 3),
}
CHAINS = tuple(name for name in MODELS if name != "resnet9-gn")


@dataclass(frozen=True)
class Case:
    """A model, where its clients start, and their data."""

    model: SimulatedModel
    params: Stack
    population: Population

    @property
    def num_clients(self) -> int:
        return self.population.num_clients

    def batches(self, num_epochs: int = 1, clients: slice = slice(None), batch_size: int = BATCH_SIZE) -> Batches:
        chosen = range(self.num_clients)[clients]
        labels = [
            [f"batches/0/{self.population.names[client]}/0/1/{epoch}" for client in chosen]
            for epoch in range(num_epochs)
        ]
        return gather_batches(self.population.train, list(chosen), labels, batch_size)


def make_case(name: str, counts: Sequence[int] = COUNTS, *, seed: int = 0, is_double: bool = False) -> Case:
    """Return clients that start apart from each other, those with the most examples first."""
    torch.manual_seed(seed)
    trainable = MODELS[name]()
    model, rng = simulate_model(trainable), np.random.default_rng(seed)

    def split(num_examples: int) -> Split:
        inputs = rng.normal(size=(num_examples, *model.input_shape)).astype(np.float32)
        return Split(inputs, rng.integers(model.num_classes, size=num_examples))

    clients = {f"client-{number}": Dataset(split(count), split(2), None) for number, count in enumerate(counts)}
    rows = {layer: torch.from_numpy(values) for layer, values in model.initial_values().items()}
    params = install(model, rows, len(counts))
    for values in params.values():
        values.add_(torch.randn(values.shape), alpha=0.02)
    case = Case(model, params, gather_population(clients))
    return doubled(case) if is_double else case


def doubled(case: Case) -> Case:
    """Return the case in float64: what is left of a difference there is one of meaning."""
    module = copy.deepcopy(case.model.module).double()
    train = case.population.train
    double = ResidentSplit(train.inputs.double(), train.targets, train.starts, train.counts)
    return Case(
        replace(case.model, module=module),
        {name: values.double() for name, values in case.params.items()},
        replace(case.population, train=double),
    )


def train_in_chunks(
    engine: Engine, case: Case, rule: StepRule, num_epochs: int, chunk_size: int, batch_size: int = BATCH_SIZE
) -> tuple[Stack, torch.Tensor]:
    """Train all clients, so many at once; where they start is where a proximal term pulls to."""
    parts: list[Stack] = []
    losses = []
    for begin in range(0, case.num_clients, chunk_size):
        chunk = slice(begin, begin + chunk_size)
        start = take_clients(case.params, chunk)
        anchor = {name: values + 0.1 for name, values in start.items()}
        trained, loss = engine.train(start, case.batches(num_epochs, chunk, batch_size), rule, anchor)
        parts.append(trained)
        losses.append(loss)
    return {name: torch.cat([part[name] for part in parts]) for name in case.params}, torch.cat(losses)


def distance(left: Stack, right: Stack) -> float:
    """Return the largest difference of a parameter."""
    assert left.keys() == right.keys()
    return max(float((left[name] - right[name]).abs().max()) for name in left)
