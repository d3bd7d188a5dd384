"""A graph as the bytes of a file that a runtime loads."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch.export import ExportedProgram

from export import rewrites
from export.culprit import unsupported_operator
from export.joint_graph import trace_prediction, trace_training
from export.memory import measure_memory
from export.model_check import CheckedModel
from export.quiet import quiet_exporters
from wire.errors import ExportError
from wire.manifest import StepMemory

__all__ = ["program_files"]

BATCH_SYMBOL = re.compile(r"\bs\d+\b")
"""How torch calls the one dimension that it does not know."""


def program_files(
    checked: CheckedModel, partials: Sequence[Collection[str]] = ()
) -> tuple[dict[str, bytes], StepMemory]:
    """Return the program's files by name, for every runtime, and the memory that a step needs.

    The names of inputs and outputs are those that ``edge_client.program_check`` expects; verification would find a difference.

    Args:
        checked: The model.
        partials: Sets of layers, for each of which there is a smaller training program.

    Raises:
        ExportError: If torch cannot trace the model, or a runtime lacks an operator, with its module; or there is no such layer.
    """
    files: dict[str, bytes] = {}
    with quiet_exporters():
        memory = _add_training(files, "train", checked, None)
        for number, layers in enumerate(partials, start=1):
            _add_training(files, f"train-{number}", checked, checked.parameters_of(layers))
        prediction = trace_prediction(checked)
        files["predict.onnx"] = _onnx_file(checked, prediction, [*checked.parameters, "x"], ["logits"])
        files["predict.pte"], _ = _executorch_file(checked, prediction)
    return files, memory


def _add_training(
    files: dict[str, bytes], stem: str, checked: CheckedModel, trained: Collection[str] | None
) -> StepMemory:
    """Add the files of a training program, and return what a step needs."""
    training, statistics = trace_training(checked, trained), checked.statistics
    masks = [f"mask.{index}" for index in range(len(checked.masks))]
    results = [f"{'statistic' if name in statistics else 'gradient'}.{name}" for name in checked.results_for(trained)]
    inputs = [*checked.parameters, "x", "y", *masks]
    files[f"{stem}.onnx"] = _onnx_file(checked, training, inputs, ["loss", "logits", *results])
    files[f"{stem}.pte"], memory = _executorch_file(checked, training)
    return memory


def _executorch_file(checked: CheckedModel, program: ExportedProgram) -> tuple[bytes, StepMemory]:
    """Return the program as a ``.pte`` file, whose memory is planned for its largest batch, and what a batch needs."""
    from executorch.backends.xnnpack.partition.config.generic_node_configs import BMMConfig  # noqa: PLC0415 - slow and noisy
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner  # noqa: PLC0415 - the same
    from executorch.exir import to_edge_transform_and_lower  # noqa: PLC0415 - the same
    from executorch.runtime import Runtime  # noqa: PLC0415 - the same

    try:
        program = rewrites.for_executorch(program)
        memory = measure_memory(program)
        products = XnnpackPartitioner(configs=[BMMConfig])
        exported = to_edge_transform_and_lower(program, partitioner=[products]).to_executorch()
    except Exception as error:  # its passes raise whatever they meet
        raise unsupported_operator(checked, program, "ExecuTorch", str(error)) from error
    kernels = Runtime.get().operator_registry.operator_names
    for operator in exported.executorch_program.execution_plan[0].operators:
        if f"{operator.name}.{operator.overload}".rstrip(".") not in kernels:
            raise unsupported_operator(checked, program, "ExecuTorch", operator.name)
    return bytes(exported.buffer), memory


def _onnx_file(checked: CheckedModel, program: ExportedProgram, inputs: Sequence[str], outputs: Sequence[str]) -> bytes:
    """Return the program as an ``.onnx`` file, its inputs and outputs under these names, the free dimension as ``batch``.

    What torch notes about the lines of Python that an operator comes from is left out: the bytes would differ between
    machines.
    """
    import onnx_ir  # noqa: PLC0415 - slow

    try:
        program = rewrites.for_onnx(program)
        exported = torch.onnx.export(program, input_names=inputs, output_names=outputs, verbose=False)
    except Exception as error:  # torch raises dozens of its own, and asserts
        raise unsupported_operator(checked, program, "ONNX Runtime", f"{error} {error.__cause__}") from error
    if exported is None:
        raise ExportError("torch gave no ONNX program")
    graph = exported.model.graph
    for noted in (exported.model, graph, *graph):
        noted.metadata_props.clear()
    for value in (*graph.inputs, *(output for node in graph for output in node.outputs)):
        _name_batch(value)
    file: bytes = onnx_ir.serde.serialize_model(exported.model).SerializeToString(deterministic=True)
    return file


def _name_batch(value: Any) -> None:
    """Call the free dimension ``batch`` in a value's shape, and drop its notes."""
    value.metadata_props.clear()
    if value.shape is not None:
        for axis, size in enumerate(value.shape):
            if not isinstance(size, int) and size.value is not None:
                value.shape[axis] = BATCH_SYMBOL.sub("batch", size.value)
