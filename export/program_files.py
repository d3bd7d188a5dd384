"""A graph as the bytes of a file that a runtime loads."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch.export import ExportedProgram

from export.quiet import quiet_exporters

__all__ = ["executorch_file", "onnx_file"]

BATCH_SYMBOL = re.compile(r"\bs\d+\b")
"""How torch calls the one dimension that it does not know."""


def executorch_file(graph: ExportedProgram) -> bytes:
    """Return the graph as a ``.pte`` file; memory is planned for its largest batch."""
    with quiet_exporters():
        from executorch.exir import to_edge  # noqa: PLC0415 - slow and noisy

        file: bytes = to_edge(graph).to_executorch().buffer
        return file


def onnx_file(graph: ExportedProgram, inputs: Sequence[str], outputs: Sequence[str]) -> bytes:
    """Return the graph as an ``.onnx`` file, its inputs and outputs under these names, the free dimension as ``batch``.

    What torch notes about the lines of Python that an operator comes from is left out: it would make the bytes differ
    between machines.
    """
    with quiet_exporters():
        program = torch.onnx.export(graph, input_names=inputs, output_names=outputs, verbose=False)
        import onnx_ir  # noqa: PLC0415 - slow

        model = program.model
        model.metadata_props.clear()
        model.graph.metadata_props.clear()
        for node in model.graph:
            node.metadata_props.clear()
            for value in node.outputs:
                _name_batch(value)
        for value in model.graph.inputs:
            _name_batch(value)
        file: bytes = onnx_ir.serde.serialize_model(model).SerializeToString(deterministic=True)
        return file


def _name_batch(value: Any) -> None:
    """Call the free dimension ``batch`` in a value's shape, and drop its notes."""
    value.metadata_props.clear()
    if value.shape is not None:
        for axis, size in enumerate(value.shape):
            if not isinstance(size, int) and size.value is not None:
                value.shape[axis] = BATCH_SYMBOL.sub("batch", size.value)
