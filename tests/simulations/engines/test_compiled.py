"""The compiled engine: the whole step is one graph for the compiler, and what it gives is what the serial loop gives."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

from simulations.engines import compiled
from simulations.engines.compiled import CompiledEngine, compile_whole
from simulations.engines.products import ProductEngine
from simulations.engines.serial import SerialEngine
from tests.simulations.engines.cases import CHAINS, RULES, distance, make_case, train_in_chunks

traced_only = partial(compile_whole, backend="aot_eager")
"""All of torch's compiler but the code that it would write, which takes longest."""
EQUAL = (6, 6, 6)


def uncompiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return function


@pytest.mark.parametrize("rule", ["plain", "all at once"])
@pytest.mark.parametrize("name", ["tanh", "norms", "fashion14-cnn", "watch-cnn"])
def test_a_compiled_epoch_is_the_serial_loops(name: str, rule: str) -> None:
    case = make_case(name, EQUAL, is_double=True)
    engine = CompiledEngine(case.model, compiler=traced_only)
    found, losses = train_in_chunks(engine, case, RULES[rule], 2, 3, batch_size=6)
    expected, expected_losses = train_in_chunks(SerialEngine(case.model), case, RULES[rule], 2, 3, batch_size=6)
    assert distance(found, expected) < 1e-9
    assert torch.allclose(losses, expected_losses, atol=1e-9, rtol=0)


def test_only_the_first_shapes_are_compiled_and_the_others_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "MOST_SHAPES", 2)
    shapes = set()

    def noting(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            shapes.add(arguments[1].shape)
            return function(*arguments)

        return call

    case = make_case("tanh", is_double=True)
    for rule in (RULES["plain"], RULES["all at once"]):
        shapes.clear()
        engine = CompiledEngine(case.model, compiler=noting)
        found, _ = train_in_chunks(engine, case, rule, 1, 5)
        expected, _ = train_in_chunks(SerialEngine(case.model), case, rule, 1, 5)
        assert distance(found, expected) < 1e-9
        assert [len(shape) for shape in shapes] == [3, 3]


@pytest.mark.parametrize("name", CHAINS)
def test_short_activations_change_a_step_by_their_rounding_alone(name: str) -> None:
    case = make_case(name)
    engine = CompiledEngine(case.model, torch.bfloat16, uncompiled)
    for rule in RULES.values():
        found, _ = train_in_chunks(engine, case, rule, 1, 5)
        expected, _ = train_in_chunks(ProductEngine(case.model), case, rule, 1, 5)
        has_convolutions = len(case.model.input_shape) > 1
        assert (distance(found, expected) > 0) == has_convolutions
        assert distance(found, expected) < 0.1
        assert all(values.dtype == torch.float32 for values in found.values())


def test_what_is_measured_is_not_shortened() -> None:
    case = make_case("fashion14-cnn", EQUAL)
    inputs = case.population.train.inputs.view(len(EQUAL), 6, *case.model.input_shape)
    short = CompiledEngine(case.model, torch.bfloat16, uncompiled)
    assert torch.equal(short.predict(case.params, inputs), ProductEngine(case.model).predict(case.params, inputs))
