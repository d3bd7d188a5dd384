"""The compiled loops: models of any sizes, what they refuse, and a machine that cannot compile them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edge_client.native.building import cache_folder
from export.models import TrainableModel
from simulations.bench.workloads import make_module
from simulations.engines.model import install, simulate_model
from simulations.engines.native import building
from simulations.engines.native.engine import NativeEngine
from simulations.engines.native.interface import Loops, load_loops
from simulations.engines.planner import plan
from simulations.engines.serial import SerialEngine
from tests.simulations.engines.cases import MODELS, RULES, Case, distance, doubled, make_case, train_in_chunks
from wire.errors import ProgramError

EXACT = 1e-9


@st.composite
def chains(draw: st.DrawFn) -> TrainableModel:
    """Return convolutions, norms, pools and linear layers of odd sizes, over an image or a signal."""
    is_signal = draw(st.booleans(), "a signal")
    channels, sides = draw(st.integers(1, 3), "channels"), [1 if is_signal else draw(st.integers(5, 9)), 9]
    shape = (channels, sides[1]) if is_signal else (channels, *sides)
    links: list[nn.Module] = []
    for _ in range(draw(st.integers(0, 2), "convolutions")):
        kernel, stride, padding = draw(st.integers(1, 3)), draw(st.integers(1, 2)), draw(st.integers(0, 1))
        outputs, bias = draw(st.integers(1, 19), "outputs"), draw(st.booleans(), "bias")
        convolution = nn.Conv1d if is_signal else nn.Conv2d
        links.append(convolution(channels, outputs, kernel, stride, padding, bias=bias))
        channels, sides = outputs, [1 if is_signal else (sides[0] + 2 * padding - kernel) // stride + 1, sides[1]]
        sides[1] = (sides[1] + 2 * padding - kernel) // stride + 1
        if draw(st.booleans(), "norm"):
            links.append(
                nn.GroupNorm(draw(st.sampled_from([it for it in (1, 2, 3, 6) if channels % it == 0])), channels)
            )
        links.append(draw(st.sampled_from([nn.ReLU(), nn.Tanh(), nn.Identity()]), "activation"))
        window, step = draw(st.integers(1, 3), "window"), draw(st.integers(1, 3), "step")
        if min(sides[1:] if is_signal else sides) >= window:
            links.append((nn.MaxPool1d if is_signal else nn.MaxPool2d)(window, step))
            sides = [1 if is_signal else (sides[0] - window) // step + 1, (sides[1] - window) // step + 1]
        if min(sides[1:] if is_signal else sides) < 3:
            break
    features = channels * sides[0] * sides[1]
    hidden = draw(st.integers(1, 21), "hidden")
    links += [nn.Flatten(), nn.Linear(features, hidden), draw(st.sampled_from([nn.ReLU(), nn.Tanh()]))]
    links.append(nn.Linear(hidden, 3, bias=draw(st.booleans())))
    links = [it for it in links if not isinstance(it, nn.Identity)]
    return TrainableModel(nn.Sequential(*links), shape, 3)


@settings(max_examples=60)
@given(model=chains(), rule=st.sampled_from(["plain", "all at once"]), batch_size=st.integers(1, 7))
def test_in_float64_a_chain_of_any_sizes_is_trained_as_by_the_serial_loop(
    model: TrainableModel, rule: str, batch_size: int
) -> None:
    simulated = simulate_model(model)
    case = make_case("tanh", (7, 2))
    rows = {layer: torch.from_numpy(values) for layer, values in simulated.initial_values().items()}
    train = replace(case.population.train, inputs=torch.randn(9, *model.input_shape), targets=torch.arange(9) % 3)
    case = doubled(Case(simulated, install(simulated, rows, 2), replace(case.population, train=train)))
    expected, losses = train_in_chunks(SerialEngine(case.model), case, RULES[rule], 2, 2, batch_size)
    found, found_losses = train_in_chunks(NativeEngine(case.model), case, RULES[rule], 2, 2, batch_size)
    assert distance(found, expected) < EXACT
    assert torch.allclose(found_losses, losses, atol=EXACT, rtol=0)


def test_in_float32_many_small_shares_of_a_gradient_are_not_lost_in_a_large_weight() -> None:
    model = simulate_model(TrainableModel(make_module("S"), (1, 28, 28), 10))
    rows = {layer: torch.from_numpy(values) for layer, values in model.initial_values().items()}
    inputs = torch.randn(200, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    population = make_case("tanh", (200,)).population
    train = replace(population.train, inputs=inputs, targets=torch.arange(200) % 10)
    case = Case(model, install(model, rows, 1), replace(population, train=train))
    exact, _ = train_in_chunks(SerialEngine(doubled(case).model), doubled(case), RULES["plain"], 1, 1)
    errors = [
        distance({name: values.double() for name, values in found.items()}, exact)
        for engine in (NativeEngine, SerialEngine)
        for found, _ in [train_in_chunks(engine(case.model), case, RULES["plain"], 1, 1)]
    ]
    assert errors[0] < 3 * errors[1]


def test_logits_of_more_examples_than_are_taken_at_once_are_those_of_the_serial_loop() -> None:
    case = make_case("image-cnn", (2, 2), is_double=True)
    inputs = torch.randn(2, 71, *case.model.input_shape, dtype=torch.float64)
    found, expected = (engine(case.model).predict(case.params, inputs) for engine in (NativeEngine, SerialEngine))
    assert torch.allclose(found, expected, atol=EXACT, rtol=0)


@pytest.mark.parametrize("label", [-1, 4])
def test_an_example_of_a_class_that_there_is_not_is_refused(label: int) -> None:
    case = make_case("tanh", (4, 4))
    case.population.train.targets[5] = label
    with pytest.raises(ValueError, match=r"a class outside \[0, 4\)"):
        NativeEngine(case.model).train(case.params, case.batches(), RULES["plain"])


def test_without_a_compiler_the_planner_takes_another_engine_and_native_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", "")
    monkeypatch.setenv("PATH", str(tmp_path))
    load_loops.cache_clear()
    model = simulate_model(MODELS["tanh"]())
    try:
        assert plan(model, 4, 2, 5, RULES["plain"]).engine == "stacked"
        with pytest.raises(ProgramError, match=r"no C\+\+ compiler .*apt install g\+\+"):
            NativeEngine(model)
    finally:
        load_loops.cache_clear()


@pytest.mark.slow
def test_loops_are_compiled_once_for_a_machine_and_anew_for_another_source(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    Loops(torch.float32)
    (built,) = cache_folder().iterdir()
    monkeypatch.setenv("CXX", "/nonexistent")
    Loops(torch.float32)
    assert [*cache_folder().iterdir()] == [built]
    monkeypatch.setattr(building, "FLAGS", (*building.FLAGS, "-DOTHER"))
    monkeypatch.setenv("CXX", "false")
    with pytest.raises(ProgramError, match=r"false cannot compile training\.cpp"):
        Loops(torch.float32)
