from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from edge_client.program import TrainStep

if TYPE_CHECKING:
    from tests.export.conftest import Exported

RUNTIMES = ("onnx", "executorch", "executorch-torch")
MODELS = ("watch-cnn", "spatial", "activations", "attention")

Exporter = Callable[[str], "Exported"]


def random_batch(exported: Exported, size: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    inputs = generator.normal(size=(size, *exported.model.input_shape)).astype(np.float32)
    return inputs, np.arange(size) % exported.model.num_classes


def run_autograd(
    exported: Exported, params: dict[str, np.ndarray], inputs: np.ndarray, targets: np.ndarray
) -> TrainStep:
    named = {name: torch.from_numpy(values).requires_grad_() for name, values in params.items()}
    logits = torch.func.functional_call(exported.model.module, named, (torch.from_numpy(inputs),))
    loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(targets))
    gradients = torch.autograd.grad(loss, list(named.values()))
    return TrainStep(
        loss.item(),
        logits.detach().numpy(),
        {name: gradient.numpy() for name, gradient in zip(named, gradients, strict=True)},
    )


def relative_error(found: np.ndarray, expected: np.ndarray, floor: float = 1e-30) -> float:
    return float(np.abs(found - expected).max() / max(np.abs(expected).max(), floor))


@pytest.mark.slow
@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("size", [1, 7, 33, 150])
def test_a_runtime_gives_autograds_loss_logits_and_gradients(
    exported: Exporter, name: str, runtime: str, size: int
) -> None:
    model = exported(name)
    params, (inputs, targets) = model.params(), random_batch(model, size)
    found = model.load(runtime).train_step(params, inputs, targets)
    expected = run_autograd(model, params, inputs, targets)
    assert found.loss == pytest.approx(expected.loss, rel=1e-5)
    assert relative_error(found.logits, expected.logits) < 1e-5
    greatest = max(float(np.abs(gradient).max()) for gradient in expected.gradients.values())
    for parameter, gradient in expected.gradients.items():
        assert found.gradients[parameter].dtype == np.float32
        assert relative_error(found.gradients[parameter], gradient, 1e-2 * greatest) < 1e-4, parameter


@pytest.mark.slow
@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("name", MODELS)
def test_twenty_steps_of_descent_stay_with_torch(exported: Exporter, name: str, runtime: str) -> None:
    model = exported(name)
    program, ours, theirs = model.load(runtime), model.params(), model.params()
    for step in range(20):
        inputs, targets = random_batch(model, 3 + step, seed=step)
        found = program.train_step(ours, inputs, targets)
        expected = run_autograd(model, theirs, inputs, targets)
        ours = {parameter: values - np.float32(0.05) * found.gradients[parameter] for parameter, values in ours.items()}
        theirs = {
            parameter: values - np.float32(0.05) * expected.gradients[parameter] for parameter, values in theirs.items()
        }
    for parameter, values in theirs.items():
        assert relative_error(ours[parameter], values) < 1e-4, parameter


@pytest.mark.slow
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_prediction_is_the_logits_of_training(exported: Exporter, runtime: str) -> None:
    model = exported("watch-cnn")
    program, params, (inputs, targets) = model.load(runtime), model.params(), random_batch(model, 100)
    logits = program.predict(params, inputs)
    assert logits.shape == (100, 7)
    assert relative_error(logits, program.train_step(params, inputs, targets).logits) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_same_batch_gives_the_same_bits_and_the_results_are_the_callers(exported: Exporter, runtime: str) -> None:
    model = exported("watch-cnn")
    program, params, batch = model.load(runtime), model.params(), random_batch(model, 9)
    first = program.train_step(params, *batch)
    kept = {parameter: gradient.copy() for parameter, gradient in first.gradients.items()}
    program.train_step(params, *random_batch(model, 9, seed=1))
    again = program.train_step(params, *batch)
    for parameter, gradient in kept.items():
        np.testing.assert_array_equal(first.gradients[parameter], gradient)
        np.testing.assert_array_equal(again.gradients[parameter], gradient)


@pytest.mark.slow
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_read_only_and_strided_arrays_are_taken(exported: Exporter, runtime: str) -> None:
    model = exported("watch-cnn")
    params, (inputs, targets) = model.params(), random_batch(model, 4)
    program = model.load(runtime)
    expected = program.train_step(params, inputs, targets)
    frozen = {
        name: np.frombuffer(values.tobytes(), np.float32).reshape(values.shape) for name, values in params.items()
    }
    strided = np.repeat(inputs, 2, axis=0)[::2]
    found = program.train_step(frozen, strided, targets)
    assert found.loss == expected.loss


@pytest.mark.slow
def test_executorch_gives_the_same_bits_with_and_without_torch(exported: Exporter) -> None:
    model = exported("watch-cnn")
    params, batch = model.params(), random_batch(model, 70)
    ours, theirs = (model.load(way).train_step(params, *batch) for way in ("executorch", "executorch-torch"))
    assert ours.loss == theirs.loss
    np.testing.assert_array_equal(ours.logits, theirs.logits)
    for parameter, gradient in theirs.gradients.items():
        np.testing.assert_array_equal(ours.gradients[parameter], gradient)


OPERATORS = (
    ("spatial", "conv2d"),
    ("spatial", "conv2d_strided"),
    ("spatial", "conv2d_grouped"),
    ("spatial", "conv2d_depthwise_dilated"),
    ("spatial", "conv2d_padded_beyond_its_kernel"),
    ("spatial", "max_pool"),
    ("spatial", "max_pool_overlapping_and_padded"),
    ("spatial", "average_pool"),
    ("spatial", "average_pool_overlapping_and_padded"),
    ("spatial", "adaptive_average_pool"),
    ("spatial", "group_norm"),
    ("spatial", "instance_norm"),
    ("activations", "relu"),
    ("activations", "gelu"),
    ("activations", "sigmoid"),
    ("activations", "tanh"),
    ("activations", "silu"),
    ("activations", "leaky_relu"),
    ("activations", "elu"),
    ("activations", "hardswish"),
    ("activations", "softmax"),
    ("activations", "layer_norm"),
)


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["onnx", "executorch"])
@pytest.mark.parametrize(("name", "operator"), OPERATORS)
def test_an_operator_is_covered_on_both_runtimes(exported: Exporter, name: str, operator: str, runtime: str) -> None:
    report = exported(name).report
    errors = {verification.runtime: verification.errors for verification in report.verifications}[runtime]
    beside = {layer: error for layer, error in errors.items() if layer.startswith(f"branches.{operator}.")}
    assert len(beside) >= 2
    assert all(error < 1e-4 for error in beside.values()), beside
