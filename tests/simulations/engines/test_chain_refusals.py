"""What the stacked engine cannot train, and what no engine can: each refused by name."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from export.models import TrainableModel
from simulations.engines.chain import NotAChainError
from simulations.engines.engine import StepRule
from simulations.engines.model import SimulatedModel, simulate_model
from simulations.engines.serial import SerialEngine
from simulations.engines.stacked import StackedEngine
from simulations.engines.vmapped import VmapEngine
from simulations.models import load_simulation_model
from tests.simulations.engines.cases import distance, make_case
from wire.errors import ConfigError, ExportError


class Applied(nn.Module):
    def __init__(self, function: Callable[..., torch.Tensor], *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x, *self.layers)


def flat(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(3))


NO_CHAINS: dict[str, Callable[[], nn.Module]] = {
    "branches at 'layers_0'": lambda: Applied(lambda x, f: f(x) + x, nn.Linear(8, 8)),
    "branches at 'layers_1'": lambda: Applied(
        lambda x, f, g: torch.addcmul(h := f(x), h, g(h)), nn.Linear(8, 8), nn.Linear(8, 8)
    ),
    "uses 'layers.0.bias' twice": lambda: Applied(lambda x, f: f(f(x).tanh()), nn.Linear(8, 8)),
    "cannot be traced": lambda: Applied(lambda x, f: f(x) if x.sum() > 0 else -f(x), nn.Linear(8, 8)),
    "it holds 'Sigmoid'": lambda: nn.Sequential(nn.Linear(8, 8), nn.Sigmoid()),
    "it holds 'LayerNorm'": lambda: nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8)),
    "it holds 'sigmoid'": lambda: Applied(lambda x, f: f(x).sigmoid(), nn.Linear(8, 8)),
    "a GroupNorm comes after": lambda: nn.Sequential(nn.Linear(8, 8), nn.GroupNorm(2, 8), nn.ReLU()),
    "does not flatten all but the batch": lambda: Applied(lambda x, f: f(x).flatten(start_dim=0), nn.Linear(8, 8)),
}

NO_CHAINS_OF_CHANNELS: dict[str, Callable[[], nn.Module]] = {
    "linear layer '0' comes before": lambda: flat(nn.Linear(6, 4)),
    "convolution '0' has groups, a dilation": lambda: flat(nn.Conv2d(2, 4, 3, groups=2)),
    "a dilation or another padding": lambda: flat(nn.Conv2d(2, 4, 2, dilation=2)),
    "another padding than zeros": lambda: flat(nn.Conv2d(2, 4, 3, padding=1, padding_mode="reflect")),
    "or another padding than": lambda: flat(nn.Conv2d(2, 4, 3, padding="same")),
    "pool '_1' has a padding, a dilation or rounds up": lambda: flat(
        nn.Conv2d(2, 4, 3), nn.MaxPool2d(3, ceil_mode=True)
    ),
    "it holds 'AvgPool2d'": lambda: flat(nn.Conv2d(2, 4, 3), nn.AvgPool2d(2)),
    "it holds 'GroupNorm'": lambda: flat(nn.GroupNorm(1, 2, affine=False)),
    "it holds 'ConvTranspose2d'": lambda: flat(nn.ConvTranspose2d(2, 2, 2)),
}


@pytest.mark.parametrize("reason", NO_CHAINS)
def test_a_model_of_vectors_that_is_no_chain_is_refused_with_its_place(reason: str) -> None:
    model = TrainableModel(NO_CHAINS[reason](), (8,), 8)
    layers = () if "flatten" in reason else simulate_model(model).layers
    with pytest.raises(NotAChainError, match=reason):
        StackedEngine(SimulatedModel(model.module, layers, (8,), 8))


@pytest.mark.parametrize("reason", NO_CHAINS_OF_CHANNELS)
def test_a_model_of_images_that_is_no_chain_is_refused_with_its_place(reason: str) -> None:
    module = NO_CHAINS_OF_CHANNELS[reason]()
    module(torch.zeros(2, 2, 6, 6))
    with pytest.raises(NotAChainError, match=reason):
        StackedEngine(simulate_model(TrainableModel(module, (2, 6, 6), 3)))


@pytest.mark.parametrize("name", ["resnet9-gn", "resnet20-gn", "char-gru"])
def test_residual_and_recurrent_networks_are_no_chains(name: str) -> None:
    with pytest.raises(NotAChainError):
        StackedEngine(simulate_model(load_simulation_model(name)))


@pytest.mark.parametrize(
    ("reason", "layer"),
    [("'1.running_mean' is a running statistic", nn.BatchNorm1d(8)), ("module '1' draws random", nn.Dropout())],
)
def test_a_model_with_state_or_chance_is_refused_for_every_engine(reason: str, layer: nn.Module) -> None:
    with pytest.raises(ExportError, match=reason):
        simulate_model(TrainableModel(nn.Sequential(nn.Linear(8, 8), layer), (8,), 8))


def test_a_function_that_draws_is_refused() -> None:
    with pytest.raises(ExportError, match="the model draws random numbers"):
        simulate_model(TrainableModel(Applied(lambda x, f: f(x) + torch.rand(1), nn.Linear(8, 8)), (8,), 8))


def test_looking_at_a_model_draws_nothing() -> None:
    before = torch.get_rng_state()
    model = TrainableModel(nn.Linear(8, 8), (8,), 8)
    drawn = torch.get_rng_state()
    simulate_model(model)
    assert torch.equal(torch.get_rng_state(), drawn)
    assert not torch.equal(before, drawn)


@pytest.mark.parametrize("engine", [SerialEngine, StackedEngine, VmapEngine])
def test_a_pull_without_a_place_to_pull_to_is_refused(engine: type[SerialEngine]) -> None:
    case = make_case("tanh", (3,))
    with pytest.raises(ConfigError, match="needs an anchor"):
        engine(case.model).train(case.params, case.batches(), StepRule(0.1, proximal=1.0))


FORMS: dict[str, Callable[[], nn.Module]] = {
    "functions": lambda: Applied(
        lambda x, f, g: g(torch.flatten(nn.functional.max_pool2d(torch.relu(f(x)), 2, stride=1), 1)),
        nn.Conv2d(2, 4, (3, 2), stride=(1, 2), padding=(1, 0)),
        nn.Linear(40, 3),
    ),
    "methods": lambda: Applied(
        lambda x, f, g: g(torch.max_pool2d(f(x).relu(), (2, 1)).tanh().flatten(start_dim=1)),
        nn.Conv2d(2, 4, 3),
        nn.Linear(32, 3),
    ),
    "modules": lambda: nn.Sequential(
        nn.Tanh(),
        nn.Conv2d(2, 4, 3),
        nn.ReLU(),
        nn.MaxPool2d(2, stride=1),
        nn.MaxPool2d((1, 2)),
        nn.Flatten(),
        nn.Linear(12, 3),
    ),
    "vectors": lambda: nn.Sequential(nn.Flatten(), nn.Linear(72, 5), nn.ReLU(), nn.Flatten(), nn.Linear(5, 3)),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_chain_may_be_written_in_many_ways(form: str) -> None:
    torch.manual_seed(1)
    model = simulate_model(TrainableModel(FORMS[form]().double().float(), (2, 6, 6), 3))
    params = {name: values.detach().repeat(3, *[1] * values.dim()) for name, values in model.module.named_parameters()}
    for values in params.values():
        values.add_(torch.randn(values.shape), alpha=0.1)
    inputs, targets = torch.randn(3, 4, 2, 6, 6), torch.randint(3, (3, 4))
    weights = torch.full((3, 4), 0.25)
    _, expected = SerialEngine(model).gradients(params, inputs, targets, weights)
    _, found = StackedEngine(model).gradients(params, inputs, targets, weights)
    assert distance(found, expected) < 1e-5
