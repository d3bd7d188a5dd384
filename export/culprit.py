"""Whose fault it is: the torch module behind an operator that cannot be exported.

Joining forward and backward drops torch's notes on which module an operator comes from. They are found again by the
parameters that the operator takes, else by an operator of its name in the forward pass alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import torch
from torch.export import ExportedProgram
from torch.fx import Node
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols

from export.model_check import CheckedModel
from export.models import TrainableModel
from export.quiet import quiet_exporters
from wire.errors import ExportError

__all__ = ["refuse_unpredictable_operators", "unsupported_operator"]


def refuse_unpredictable_operators(checked: CheckedModel, program: ExportedProgram) -> None:
    """Refuse a model whose result is drawn anew each time, no two runtimes draw alike, or whose sizes depend on values.

    Raises:
        ExportError: With the operator and its module.
    """
    for node in _operators(program):
        if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
            raise ExportError(
                f"{_named(checked, program, node)} draws random numbers, which no exported program can; call "
                "torch.nn.functional.dropout by this name, or remove it from the model"
            )
        if free_unbacked_symbols(node.meta.get("val")):
            raise ExportError(
                f"{_named(checked, program, node)} gives a result whose shape depends on values; take torch.where, or a mask "
                "instead of a selection"
            )


def unsupported_operator(checked: CheckedModel, program: ExportedProgram, runtime: str, message: str) -> ExportError:
    """Return the error for an operator that an exporter does not know.

    Args:
        checked: The model.
        program: The graph that could not be exported.
        runtime: For which runtime.
        message: What the exporter said; the operator is the first of the graph that it names.
    """
    for node in _operators(program):
        if re.search(rf"aten(::|\.){re.escape(_name(node))}\b", message):
            return ExportError(
                f"{_named(checked, program, node)} cannot run on {runtime}; docs/export.md says what can be used instead"
            )
    return ExportError(f"the model cannot be exported for {runtime}: {_first_line(message)}")


def _named(checked: CheckedModel, program: ExportedProgram, node: Node) -> str:
    """Return operator and module for people: ``aten::dropout in module 'drop' (Dropout)``."""
    operator = f"aten::{_name(node)}"
    path = _module_by_parameter(checked, program, node)
    if path is None:
        path = _module_by_name(checked.model, node)
    if path is None:
        return f"operator {operator}"
    kind = type(checked.model.module.get_submodule(path)).__name__
    return f"operator {operator} of module {path!r} ({kind})" if path else f"operator {operator} of {kind}"


def _module_by_parameter(checked: CheckedModel, program: ExportedProgram, node: Node) -> str | None:
    """Return the module whose parameter the operator takes, itself or through views."""
    owners = dict(zip(program.graph_signature.user_inputs, checked.parameters, strict=False))
    for source in node.all_input_nodes:
        origin = source
        while origin.op == "call_function" and len(origin.all_input_nodes) == 1:
            origin = origin.all_input_nodes[0]
        if origin.op == "placeholder" and origin.name in owners:
            return owners[origin.name].rpartition(".")[0]
    return None


def _module_by_name(model: TrainableModel, node: Node) -> str | None:
    """Return the module whose forward pass calls this operator, or the one of which it is the backward."""
    wanted = _stem(node)
    with quiet_exporters():
        x = torch.zeros(2, *model.input_shape)
        forward = torch.export.export(model.module, (x,), strict=False)
        for program in (forward, forward.run_decompositions()):
            for candidate in _operators(program):
                stem = _stem(candidate)
                if stem in wanted or wanted in stem:
                    stack = candidate.meta.get("nn_module_stack") or {"": ("", "")}
                    return str(list(stack.values())[-1][0])
    return None


def _operators(program: ExportedProgram) -> Iterator[Node]:
    """Yield the graph's calls of torch operators."""
    for node in program.graph.nodes:
        if node.op == "call_function" and hasattr(node.target, "tags"):
            yield node


def _name(node: Node) -> str:
    """Return the operator's name without its overload: ``convolution_backward``."""
    return str(node.target).split(".")[1]


def _stem(node: Node) -> str:
    """Return the name that forward and backward share."""
    return re.sub(r"(_with_indices|_backward|_grad|_copy)*$", "", _name(node)).strip("_")


def _first_line(message: str) -> str:
    """Return the first line that says something."""
    return next((line.strip() for line in message.splitlines() if line.strip()), "no reason was given")
