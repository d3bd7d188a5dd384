"""The optimizer is torch's SGD with momentum, after the gradients were scaled down to their bound."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edge_client.optimizer import Sgd

VALUES = hnp.arrays(np.float32, 4, elements=st.floats(-10, 10, width=32))
UNBOUNDED = 1e9


def norm(gradients: dict[str, np.ndarray]) -> float:
    return float(np.sqrt(sum(float((g.astype(np.float64) ** 2).sum()) for g in gradients.values())))


@given(VALUES, st.lists(VALUES, min_size=1, max_size=5), st.floats(0.001, 1), st.floats(0, 0.99))
def test_it_follows_the_definition(start: np.ndarray, gradients: list[np.ndarray], lr: float, momentum: float) -> None:
    params, sgd = {"w": start.copy()}, Sgd(lr, momentum, UNBOUNDED)
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
    Sgd(1.0, 0.0, bound).update(params, gradients)
    scale = min(1.0, bound / max(norm(gradients), 1e-12))
    np.testing.assert_allclose(params["a"], -scale * a, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(params["b"], -scale * b, rtol=1e-4, atol=1e-6)
    assert norm(params) <= bound * (1 + 1e-4)


def test_the_program_may_use_its_gradients_again() -> None:
    gradient, sgd, params = np.ones(4, np.float32), Sgd(0.1, 0.9, UNBOUNDED), {"w": np.zeros(4, np.float32)}
    sgd.update(params, {"w": gradient})
    gradient[:] = 0  # the runtime writes the next gradient into the same buffer
    sgd.update(params, {"w": gradient})
    np.testing.assert_allclose(params["w"], np.full(4, -0.19), rtol=1e-6)


def test_gradients_of_zero_move_nothing() -> None:
    params = {"w": np.ones(4, np.float32)}
    Sgd(0.1, 0.9, 5.0).update(params, {"w": np.zeros(4, np.float32)})
    assert (params["w"] == 1).all()


@given(VALUES, st.lists(VALUES, min_size=1, max_size=3))
def test_the_same_gradients_give_the_same_bits(start: np.ndarray, gradients: list[np.ndarray]) -> None:
    def train() -> np.ndarray:
        params, sgd = {"w": start.copy()}, Sgd(0.1, 0.9, 1.0)
        for gradient in gradients:
            sgd.update(params, {"w": gradient})
        return params["w"]

    assert train().tobytes() == train().tobytes()


def test_gradients_that_are_not_finite_end_in_values_that_are_not() -> None:
    params = {"w": np.ones(4, np.float32)}
    with np.errstate(invalid="ignore"):
        Sgd(0.1, 0.9, 5.0).update(params, {"w": np.array([np.nan, 0, 0, 0], np.float32)})
    assert not np.isfinite(params["w"]).all()
