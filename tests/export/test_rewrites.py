"""What ExecuTorch's own kernels have slow is not in its programs: products, permutations, searches for a place."""

from __future__ import annotations

import pytest
import torch
from torch.export import ExportedProgram

from export.joint_graph import trace_training
from export.model_check import check_model
from export.quiet import quiet_exporters
from export.rewrites import for_executorch, for_onnx
from simulations.bench.step_models import STEP_MODELS

aten = torch.ops.aten


@pytest.fixture(scope="module", params=["color-cnn", "transformer"])
def programs(request: pytest.FixtureRequest) -> dict[str, ExportedProgram]:
    with quiet_exporters():
        training = trace_training(check_model(STEP_MODELS[request.param]()))
        return {"traced": training, "executorch": for_executorch(training), "onnx": for_onnx(training)}


def count(program: ExportedProgram, *operators: object) -> int:
    return sum(node.target in operators for node in program.graph.nodes)


def test_executorch_gets_batched_products_and_strided_copies(programs: dict[str, ExportedProgram]) -> None:
    assert count(programs["traced"], aten.mm.default, aten.addmm.default)
    program = programs["executorch"]
    assert count(program, aten.bmm.default) > 4
    assert count(program, aten.as_strided_copy.default) > 4
    slow = (aten.mm.default, aten.addmm.default, aten.linear.default, aten.permute.default, aten.where.self)
    assert count(program, *slow, aten.alias.default) == 0


def test_the_batch_stays_free(programs: dict[str, ExportedProgram]) -> None:
    for program in programs.values():
        (targets,) = (node for node in program.graph.nodes if node.op == "placeholder" and node.name == "y")
        assert not isinstance(targets.meta["val"].shape[0], int)


def test_the_backward_of_relu_masks_a_pools_gradient_before_it_is_spread() -> None:
    with quiet_exporters():
        training = trace_training(check_model(STEP_MODELS["color-cnn"]()))
    masked = [
        node.meta["val"].shape[1:] for node in training.graph.nodes if node.target is aten.threshold_backward.default
    ]
    assert sorted(map(tuple, masked)) == [(16, 14, 14), (32, 5, 5), (128,)]
