"""Every covered model on every runtime gives what torch gives: loss, logits, gradients and running statistics."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch.nn import functional

from edge_client.program import TrainStep
from export.stateful import PureFunctions, masked_dropouts
from export.verify import Batch, draw_batch
from tests.export.cases import CASES, branch

if TYPE_CHECKING:
    from tests.export.conftest import Exported

RUNTIMES = ("onnx", "executorch", "executorch-torch")
LOSSES: dict[str, Callable[..., torch.Tensor]] = {
    "binary-cross-entropy": functional.binary_cross_entropy_with_logits,
    "mse": functional.mse_loss,
    "huber": functional.huber_loss,
}

Exporter = Callable[[str], "Exported"]


def random_batch(exported: Exported, size: int, seed: int = 0) -> Batch:
    return draw_batch(exported.checked, size, torch.Generator().manual_seed(seed))


def run_torch(exported: Exported, params: Mapping[str, np.ndarray], batch: Batch) -> TrainStep:
    """Train the module itself for a step, as torch's users do; dropouts take the batch's masks."""
    module = copy.deepcopy(exported.model.module)
    module.load_state_dict({name: torch.from_numpy(values) for name, values in params.items()}, strict=False)
    with masked_dropouts(PureFunctions({}, [torch.from_numpy(mask) for mask in batch.masks])):
        logits = module(torch.from_numpy(batch.inputs))
    targets = torch.from_numpy(batch.targets)
    if exported.model.loss == "cross-entropy":
        loss = functional.cross_entropy(logits.movedim(-1, 1), targets)
    else:
        loss = LOSSES[exported.model.loss](logits, targets)
    torch.autograd.backward(loss)
    gradients = {name: values.grad.numpy() for name, values in module.named_parameters() if values.grad is not None}
    buffers = {name: values.numpy() for name, values in module.named_buffers()}
    statistics = {name: buffers[name] for name in exported.checked.statistics}
    return TrainStep(loss.item(), logits.detach().numpy(), gradients, statistics)


def relative_error(found: np.ndarray, expected: np.ndarray, floor: float = 1e-30) -> float:
    return float(np.abs(found - expected).max() / max(np.abs(expected).max(), floor))


@pytest.mark.slow
@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("name", CASES)
def test_a_runtime_gives_torchs_loss_logits_gradients_and_statistics(
    exported: Exporter, name: str, runtime: str
) -> None:
    model = exported(name)
    program, params = model.load(runtime), model.params()
    for size in (3, 33) if model.checked.statistics else (1, 7, 33, 150):  # pieces have statistics of their own
        batch = random_batch(model, size, seed=size)
        found = program.train_step(params, *batch)
        expected = run_torch(model, params, batch)
        assert found.loss == pytest.approx(expected.loss, rel=1e-5)
        assert relative_error(found.logits, expected.logits) < 1e-5
        assert found.gradients.keys() == expected.gradients.keys()
        greatest = max(float(np.abs(gradient).max()) for gradient in expected.gradients.values())
        for parameter, gradient in expected.gradients.items():
            assert found.gradients[parameter].dtype == np.float32
            assert relative_error(found.gradients[parameter], gradient, 1e-2 * greatest) < 1e-4, parameter
        assert found.statistics.keys() == expected.statistics.keys()
        for statistic, values in expected.statistics.items():
            assert relative_error(found.statistics[statistic], values) < 1e-5, statistic


@pytest.mark.slow
@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("name", CASES)
def test_twenty_steps_of_descent_stay_with_torch(exported: Exporter, name: str, runtime: str) -> None:
    model = exported(name)
    program, ours, theirs = model.load(runtime), model.params(), model.params()
    for step in range(20):
        batch = random_batch(model, 3 + step, seed=step)
        ours = descend(ours, program.train_step(ours, *batch))
        theirs = descend(theirs, run_torch(model, theirs, batch))
    for parameter, values in theirs.items():
        assert relative_error(ours[parameter], values, 1e-2) < 1e-4, parameter


def descend(params: dict[str, np.ndarray], step: TrainStep) -> dict[str, np.ndarray]:
    moved = {name: params[name] - np.float32(0.02) * gradient for name, gradient in step.gradients.items()}
    return {**params, **moved, **step.statistics}


@pytest.mark.slow
@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("name", CASES)
def test_a_prediction_is_the_modules_in_evaluation(exported: Exporter, name: str, runtime: str) -> None:
    model = exported(name)
    params, inputs = model.params(), random_batch(model, 100).inputs
    logits = model.load(runtime).predict(params, inputs)
    module = copy.deepcopy(model.model.module).eval()
    with torch.no_grad():
        expected = module(torch.from_numpy(inputs)).numpy()
    assert logits.shape == (100, *model.model.output_shape)
    assert relative_error(logits, expected) < 1e-5
    assert model.model.module.training, "the export left the module as it was"


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
    params, (inputs, targets, _) = model.params(), random_batch(model, 4)
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


OPERATORS = [(name, operator) for name, case in CASES.items() for operator in case.operators]


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["onnx", "executorch"])
@pytest.mark.parametrize(("name", "operator"), OPERATORS)
def test_an_operator_is_covered_on_both_runtimes(exported: Exporter, name: str, operator: str, runtime: str) -> None:
    report = exported(name).report
    errors = {verification.runtime: verification.errors for verification in report.verifications}[runtime]
    beside = {layer: error for layer, error in errors.items() if layer.startswith(f"branches.{branch(operator)}.")}
    assert len(beside) >= 2
    assert all(error < 1e-4 for error in beside.values()), beside


@pytest.mark.slow
def test_pieces_of_a_batch_with_statistics_are_normalized_by_themselves(exported: Exporter) -> None:
    """More examples than ExecuTorch plans memory for, against torch in pieces of the same size."""
    model = exported("residual, BatchNorm")
    params, batch = model.params(), random_batch(model, 96)
    found = model.load("executorch").train_step(params, *batch)
    rows = (slice(64), slice(64, 96))
    parts = [run_torch(model, params, Batch(batch.inputs[part], batch.targets[part], ())) for part in rows]
    for name in model.checked.parameters:
        first, second = ({**part.gradients, **part.statistics}[name] for part in parts)
        expected = (2 * first + second) / 3
        assert relative_error({**found.gradients, **found.statistics}[name], expected, 1e-2) < 1e-4, name


def test_there_is_a_covered_model_for_every_loss_and_kind_of_state() -> None:
    models = [case.build() for case in CASES.values()]
    assert {model.loss for model in models} == {"cross-entropy", *LOSSES}
    assert any(model.positions for model in models)
    assert any(model.num_tokens for model in models)
    assert len(set(itertools.chain.from_iterable(case.operators for case in CASES.values()))) == len(OPERATORS)
