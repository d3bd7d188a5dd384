"""A batch in pieces is the batch."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_client.pieces import PiecewiseProgram, examples_within
from edge_client.program import Params, TrainStep
from simulations.loopback.numpy_program import NumpyProgram, initial_values, perceptron_manifest
from wire.errors import ProgramError
from wire.manifest import ModelManifest, StepMemory
from wire.tensors import unflatten_layer

SIZES = [5, 4, 3]


class Watched(NumpyProgram):
    """Notes how many examples it was given, and what it gave."""

    def __init__(self) -> None:
        super().__init__(perceptron_manifest(SIZES))
        self.sizes: list[int] = []
        self.steps: list[TrainStep] = []

    def train_step(
        self,
        params: Params,
        inputs: np.ndarray,
        targets: np.ndarray,
        masks: Sequence[np.ndarray] = (),  # noqa: ARG002 - it has no dropout
    ) -> TrainStep:
        self.sizes.append(len(targets))
        self.steps.append(super().train_step(params, inputs, targets))
        return self.steps[-1]

    def predict(self, params: Params, inputs: np.ndarray) -> np.ndarray:
        self.sizes.append(len(inputs))
        return super().predict(params, inputs)


def make_params(program: NumpyProgram) -> dict[str, np.ndarray]:
    values = initial_values(program.manifest, np.random.default_rng(0))
    params: dict[str, np.ndarray] = {}
    for layer in program.manifest.layers:
        params |= unflatten_layer(layer, values[layer.name])
    return params


@given(st.integers(1, 40), st.integers(1, 45))
def test_pieces_give_the_loss_logits_and_gradients_of_the_whole(num_examples: int, most_examples: int) -> None:
    program, rng = Watched(), np.random.default_rng(num_examples)
    params = make_params(program)
    x = rng.normal(size=(num_examples, SIZES[0])).astype(np.float32)
    y = rng.integers(SIZES[-1], size=num_examples)
    whole = program.train_step(params, x, y)
    program.sizes.clear()
    found = PiecewiseProgram(program, most_examples).train_step(params, x, y)
    assert max(program.sizes) <= most_examples
    assert sum(program.sizes) == num_examples
    assert found.loss == pytest.approx(whole.loss, abs=1e-6)
    np.testing.assert_allclose(found.logits, whole.logits, atol=1e-6)
    for name, gradient in whole.gradients.items():
        np.testing.assert_allclose(found.gradients[name], gradient, atol=1e-6)
        assert found.gradients[name].dtype == gradient.dtype
    program.sizes.clear()
    np.testing.assert_allclose(PiecewiseProgram(program, most_examples).predict(params, x), whole.logits, atol=1e-6)
    assert max(program.sizes) <= most_examples


def test_what_a_piece_gave_is_not_changed_by_the_next() -> None:
    program = Watched()
    params, x = make_params(program), np.ones((4, SIZES[0]), np.float32)
    PiecewiseProgram(program, 2).train_step(params, x, np.array([0, 1, 2, 0]))
    given_back = list(program.steps)
    first = program.train_step(params, x[:2], np.array([0, 1]))
    assert all((given_back[0].gradients[name] == gradient).all() for name, gradient in first.gradients.items())


def manifest_needing(fixed_bytes: int, example_bytes: int) -> ModelManifest:
    return msgspec.structs.replace(perceptron_manifest(SIZES), memory=StepMemory(fixed_bytes, example_bytes))


@given(fixed_bytes=st.integers(0, 10**9), example_bytes=st.integers(1, 10**8), budget_mb=st.integers(1, 2000))
def test_as_many_examples_are_computed_at_once_as_fit_into_a_budget(
    fixed_bytes: int, example_bytes: int, budget_mb: int
) -> None:
    manifest, budget = manifest_needing(fixed_bytes, example_bytes), budget_mb * 10**6
    if fixed_bytes + example_bytes > budget:
        with pytest.raises(ProgramError, match=rf"needs \d+ MB for one example, this device allows {budget_mb}: raise"):
            examples_within(manifest, budget_mb)
        return
    fitting = examples_within(manifest, budget_mb)
    assert fixed_bytes + fitting * example_bytes <= budget < fixed_bytes + (fitting + 1) * example_bytes


def test_a_budget_asks_for_a_manifest_that_says_what_is_needed() -> None:
    with pytest.raises(ProgramError, match=r"does not say how much memory it needs.*export it again"):
        examples_within(perceptron_manifest(SIZES), 1000)
