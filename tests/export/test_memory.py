"""What the manifest says a step needs is what ExecuTorch plans for it."""

from __future__ import annotations

import pytest
import torch

from export import rewrites
from export.joint_graph import LARGEST_BATCH, trace_training
from export.memory import measure_memory
from export.model_check import check_model
from export.models import load_model
from export.quiet import quiet_exporters


@pytest.mark.slow
@pytest.mark.parametrize("name", ["digits-mlp", "watch-cnn"])
def test_the_memory_of_a_step_is_what_executorch_plans(name: str) -> None:
    checked = check_model(load_model(name))
    with quiet_exporters():
        from executorch.exir import EdgeCompileConfig, to_edge  # noqa: PLC0415 - it warns when it is imported

        program = rewrites.for_executorch(trace_training(checked))
        memory = measure_memory(program)
        kept = EdgeCompileConfig(preserve_ops=[torch.ops.aten.linear.default])
        exported = to_edge(program, compile_config=kept).to_executorch()
    planned = sum(exported.executorch_program.execution_plan[0].non_const_buffer_sizes)
    given = 4 * sum(values.numel() for values in checked.initial_values().values())  # the caller's, in no plan
    expected = memory.fixed_bytes + LARGEST_BATCH * memory.example_bytes - given
    assert planned == pytest.approx(expected, rel=0.15)
