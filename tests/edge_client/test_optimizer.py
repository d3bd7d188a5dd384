"""Optimizers are torch's, after the pull to what was installed and after gradients were scaled down to their bound."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edge_client.optimizer import Adam, Bounded, Optimizer, Proximal, Sgd, make_optimizer
from wire.messages import TrainingSettings

VALUES = hnp.arrays(np.float32, 4, elements=st.floats(-10, 10, width=32))


def norm(gradients: dict[str, np.ndarray]) -> float:
    return float(np.sqrt(sum(float((g.astype(np.float64) ** 2).sum()) for g in gradients.values())))


@given(VALUES, st.lists(VALUES, min_size=1, max_size=5), st.floats(0.001, 1), st.floats(0, 0.99))
def test_it_follows_the_definition(start: np.ndarray, gradients: list[np.ndarray], lr: float, momentum: float) -> None:
    params, sgd = {"w": start.copy()}, Sgd(lr, momentum)
    expected, velocity = start.astype(np.float64), np.zeros(4)
    for gradient in gradients:
        sgd.update(params, {"w": gradient})
        velocity = momentum * velocity + gradient
        expected = expected - lr * velocity
    np.testing.assert_allclose(params["w"], expected, rtol=1e-4, atol=1e-4)
    assert params["w"].dtype == np.float32


@given(VALUES, VALUES, st.floats(0.01, 5))
def test_gradients_are_scaled_together_down_to_the_bound(a: np.ndarray, b: np.ndarray, bound: float) -> None:
    params = {"a": np.zeros(4, np.float32), "b": np.zeros(4, np.float32)}
    gradients = {"a": a, "b": b}
    Bounded(Sgd(1.0), bound).update(params, gradients)
    scale = min(1.0, bound / max(norm(gradients), 1e-12))
    np.testing.assert_allclose(params["a"], -scale * a, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(params["b"], -scale * b, rtol=1e-4, atol=1e-6)
    assert norm(params) <= bound * (1 + 1e-4)


def test_the_program_may_use_its_gradients_again() -> None:
    gradient, sgd, params = np.ones(4, np.float32), Sgd(0.1, 0.9), {"w": np.zeros(4, np.float32)}
    sgd.update(params, {"w": gradient})
    gradient[:] = 0  # the runtime writes the next gradient into the same buffer
    sgd.update(params, {"w": gradient})
    np.testing.assert_allclose(params["w"], np.full(4, -0.19), rtol=1e-6)


def test_gradients_of_zero_move_nothing() -> None:
    params = {"w": np.ones(4, np.float32)}
    Bounded(Sgd(0.1, 0.9), 5.0).update(params, {"w": np.zeros(4, np.float32)})
    assert (params["w"] == 1).all()


@given(VALUES, st.lists(VALUES, min_size=1, max_size=3))
def test_the_same_gradients_give_the_same_bits(start: np.ndarray, gradients: list[np.ndarray]) -> None:
    def train() -> np.ndarray:
        params, sgd = {"w": start.copy()}, Bounded(Sgd(0.1, 0.9), 1.0)
        for gradient in gradients:
            sgd.update(params, {"w": gradient})
        return params["w"]

    assert train().tobytes() == train().tobytes()


def test_gradients_that_are_not_finite_end_in_values_that_are_not() -> None:
    params = {"w": np.ones(4, np.float32)}
    with np.errstate(invalid="ignore"):
        Bounded(Sgd(0.1, 0.9), 5.0).update(params, {"w": np.array([np.nan, 0, 0, 0], np.float32)})
    assert not np.isfinite(params["w"]).all()


Pair = tuple[Callable[[], Optimizer], Callable[[list[torch.Tensor]], torch.optim.Optimizer]]
PAIRS: dict[str, Pair] = {
    "sgd": (lambda: Sgd(0.1), lambda them: torch.optim.SGD(them, 0.1)),
    "momentum": (lambda: Sgd(0.1, 0.9), lambda them: torch.optim.SGD(them, 0.1, 0.9)),
    "nesterov": (
        lambda: Sgd(0.1, 0.9, is_nesterov=True, weight_decay=0.02),
        lambda them: torch.optim.SGD(them, 0.1, 0.9, nesterov=True, weight_decay=0.02),
    ),
    "decay": (
        lambda: Sgd(0.1, 0.5, weight_decay=0.1),
        lambda them: torch.optim.SGD(them, 0.1, 0.5, weight_decay=0.1),
    ),
    "adam": (lambda: Adam(0.01), lambda them: torch.optim.Adam(them, 0.01)),
    "adam, decay": (
        lambda: Adam(0.01, 0.8, weight_decay=0.1),
        lambda them: torch.optim.Adam(them, 0.01, (0.8, 0.999), weight_decay=0.1),
    ),
    "adamw": (
        lambda: Adam(0.01, weight_decay=0.1, is_decoupled=True),
        lambda them: torch.optim.AdamW(them, 0.01, weight_decay=0.1),
    ),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", PAIRS)
def test_twenty_steps_are_those_of_torch(name: str, seed: int) -> None:
    make, make_torchs = PAIRS[name]
    rng = np.random.default_rng(seed)
    params = {key: rng.normal(size=(3, 4)).astype(np.float32) for key in "ab"}
    theirs = {key: torch.from_numpy(values.copy()).requires_grad_() for key, values in params.items()}
    ours, torchs = make(), make_torchs(list(theirs.values()))
    for _ in range(20):
        gradients = {key: rng.normal(size=(3, 4)).astype(np.float32) for key in params}
        given = {key: values.copy() for key, values in gradients.items()}
        for key, values in theirs.items():
            values.grad = torch.from_numpy(gradients[key].copy())
        torchs.step()
        ours.update(params, gradients)
        assert all((gradients[key] == given[key]).all() for key in gradients)
    for key, moved in params.items():
        np.testing.assert_allclose(moved, theirs[key].detach().numpy(), rtol=1e-6, atol=1e-6)
        assert moved.dtype == np.float32


@given(VALUES, VALUES, VALUES, st.floats(0, 2))
def test_the_pull_is_the_gradient_of_the_squared_distance(
    start: np.ndarray, anchor: np.ndarray, gradient: np.ndarray, weight: float
) -> None:
    params, kept = {"w": start.copy()}, anchor.copy()
    Proximal(Sgd(0.5), weight, {"w": anchor}).update(params, {"w": gradient})
    expected = start.astype(np.float64) - 0.5 * (gradient + weight * (start.astype(np.float64) - anchor))
    np.testing.assert_allclose(params["w"], expected, rtol=1e-4, atol=1e-4)
    assert (anchor == kept).all()


def test_a_plan_pulls_first_then_bounds_and_then_steps() -> None:
    settings = TrainingSettings(learning_rate=1.0, momentum=0.0, proximal=3.0, max_gradient_norm=2.0)
    params = {"w": np.ones(1, np.float32)}
    make_optimizer(settings, {"w": np.zeros(1, np.float32)}).update(params, {"w": np.ones(1, np.float32)})
    assert params["w"][0] == -1.0  # the gradient 1 + 3 was scaled down to 2
