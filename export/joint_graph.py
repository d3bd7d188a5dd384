"""The training step as one graph: forward, loss and backward, with the parameters as inputs.

::

    train(*parameters, x, y, *masks) -> (loss, logits, *results)
    predict(*parameters, x)          -> (logits,)

A parameter's result is its gradient, a running statistic's its new value. torch joins forward and backward
(``torch.export.experimental``, as ExecuTorch's own training does). The parameters enter as inputs, so a program holds no
weights: one export serves every device, every round and every choice of personal layers.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.export import ExportedProgram
from torch.export.experimental import _export_forward_backward
from torch.nn.attention import SDPBackend, sdpa_kernel

from export.culprit import refuse_unpredictable_operators
from export.losses import mean_loss
from export.model_check import CheckedModel
from export.simplification import rectify_before_spreading, restore_threshold_backward
from export.stateful import evaluating, pure_functions, without_counters
from wire.errors import ExportError

__all__ = ["LARGEST_BATCH", "trace_prediction", "trace_training"]

LARGEST_BATCH = 64
"""The batch for which ExecuTorch plans memory; a greater one runs in pieces."""

TORCH = Path(torch.__file__).parent
BRANCHES = ("data-dependent", "data dependent", "unbacked")
"""Words with which torch says that a result would depend on values."""

TRACED_BATCH = 5
"""Not 1, which torch would take for a constant, and no size that a model's dimensions are likely to have."""


class _TrainStep(torch.nn.Module):
    """Forward, mean loss, logits and new running statistics as a function of the parameters.

    Args:
        checked: The model; its own values are never read.
    """

    def __init__(self, checked: CheckedModel) -> None:
        """Keep the module out of reach of torch's registration: its parameters come as inputs."""
        super().__init__()
        self._call = _functional(checked)
        self._loss = checked.model.loss
        self._statistics = checked.statistics

    def forward(
        self, params: list[torch.Tensor], x: torch.Tensor, y: torch.Tensor, masks: list[torch.Tensor]
    ) -> tuple[torch.Tensor, ...]:
        """Return the loss and, outside of the gradient, logits and statistics."""
        logits, statistics = self._call(params, x, masks)
        loss = mean_loss(self._loss, logits, y)
        return loss, logits.detach(), *(statistics[name].detach() for name in self._statistics)


class _Predict(torch.nn.Module):
    """The logits as a function of the parameters.

    Args:
        checked: The model; its own values are never read.
    """

    def __init__(self, checked: CheckedModel) -> None:
        """Keep the module out of reach of torch's registration."""
        super().__init__()
        self._call = _functional(checked)

    def forward(self, params: list[torch.Tensor], x: torch.Tensor) -> tuple[torch.Tensor]:
        """Return the logits."""
        return (self._call(params, x, [])[0],)


class _JointGraph(torch.nn.Module):
    """The joined graph as a plain function: its gradients are outputs like any other, and statistics stand among them.

    Args:
        program: Forward and backward; its own constants become buffers here.
        statistics: What the graph gives first, behind the logits.
        given: All that it gives, gradients and statistics, in the manifest's order.
    """

    def __init__(self, program: ExportedProgram, statistics: list[str], given: list[str]) -> None:
        """Take over the graph and its constants."""
        super().__init__()
        results = [*statistics, *(name for name in given if name not in statistics)]
        self._order = [results.index(name) for name in given]
        self._graph = program.graph_module
        signature = program.graph_signature
        constants = {**signature.inputs_to_lifted_tensor_constants, **signature.inputs_to_buffers}
        held = {**program.constants, **program.state_dict}
        nodes = [node.name for node in program.graph.nodes if node.op == "placeholder"]
        self._constants = [held[constants[name]] if name in constants else None for name in nodes]

    def forward(
        self, params: list[torch.Tensor], x: torch.Tensor, y: torch.Tensor, masks: list[torch.Tensor]
    ) -> tuple[torch.Tensor, ...]:
        """Return loss, logits and, for each parameter in its order, gradient or new value."""
        inputs = iter([*params, x, y, *masks])
        loss, logits, *results = self._graph(*(next(inputs) if held is None else held for held in self._constants))
        return loss, logits, *(results[index] for index in self._order)


def trace_training(checked: CheckedModel, trained: Collection[str] | None = None) -> ExportedProgram:
    """Return ``train(*parameters, x, y, *masks) -> (loss, logits, *results)`` in torch's operators.

    Args:
        checked: The model.
        trained: The parameters whose gradients it gives; None: all.

    Returns:
        A pure function; its batch may have any size in ``[1, LARGEST_BATCH]``.

    Raises:
        ExportError: If torch cannot trace it, or an operator is random.
    """
    given = checked.results_for(trained)
    params, x, y, masks = _examples(checked)
    with _tracing(checked):
        batch = torch.export.Dim("batch", min=1, max=LARGEST_BATCH)
        shapes = ([None] * len(params), {0: batch}, {0: batch}, [{0: batch}] * len(masks))
        for name, values in zip(checked.parameters, params, strict=True):
            values.requires_grad_(name in given and name not in checked.statistics)
        program = torch.export.export(_TrainStep(checked), (params, x, y, masks), dynamic_shapes=shapes, strict=False)
        program = _export_forward_backward(program)
        refuse_unpredictable_operators(checked, program)
        restore_threshold_backward(program.graph)
        rectify_before_spreading(program.graph)
        program.graph_module.recompile()
        params = [values.detach() for values in params]
        joint = _JointGraph(program, checked.statistics, given)
        return torch.export.export(joint, (params, x, y, masks), dynamic_shapes=shapes, strict=False)


def trace_prediction(checked: CheckedModel) -> ExportedProgram:
    """Return ``predict(*parameters, x) -> (logits,)`` in torch's operators: the module in evaluation."""
    params, x, _, _ = _examples(checked)
    with _tracing(checked), evaluating(checked.model.module):
        shapes = ([None] * len(params), {0: torch.export.Dim("batch", min=1, max=LARGEST_BATCH)})
        program = torch.export.export(_Predict(checked), (params, x), dynamic_shapes=shapes, strict=False)
        return program.run_decompositions()


Pure = tuple[torch.Tensor, dict[str, torch.Tensor]]
"""Logits, and the new value of each running statistic."""


def _functional(checked: CheckedModel) -> Callable[[list[torch.Tensor], torch.Tensor, list[torch.Tensor]], Pure]:
    """Return the module as a function of its parameters, inputs and masks."""

    def call(params: list[torch.Tensor], x: torch.Tensor, masks: list[torch.Tensor]) -> Pure:
        named = dict(zip(checked.parameters, params, strict=True))
        running = {named[name]: name for name in checked.statistics}
        with pure_functions(running, masks) as pure:
            logits: torch.Tensor = torch.func.functional_call(checked.model.module, named, (x,))
        return logits, pure.statistics

    return call


def _examples(
    checked: CheckedModel,
) -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    """Return parameters, inputs, targets and masks to trace with; only their shapes and types count."""
    model, generator = checked.model, torch.Generator()
    params = [torch.zeros_like(values) for values in checked.initial_values().values()]
    masks = [torch.zeros(TRACED_BATCH, *mask.shape) for mask in checked.masks]
    return params, model.draw_inputs(TRACED_BATCH, generator), model.draw_targets(TRACED_BATCH, generator), masks


@contextmanager
def _tracing(checked: CheckedModel) -> Iterator[None]:
    """Attention in plain operators; what torch cannot trace is refused in one line."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), without_counters(checked.model.module):
            yield
    except ExportError:
        raise
    except Exception as error:  # torch raises dozens of its own, and asserts
        raise _untraceable(error) from error
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _untraceable(error: Exception) -> ExportError:
    """Return the refusal for people: what torch could not trace, and on which line of the model."""
    where = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        path = Path(frame.f_code.co_filename)
        if path.exists() and not any(path.is_relative_to(library) for library in (TORCH, Path(__file__).parent)):
            where = f" at {path.name}:{line}"
    reason = str(error).strip().partition("\n")[0]
    if any(word in reason.lower() for word in BRANCHES):
        return ExportError(
            f"the model branches on values, or its shapes depend on them,{where}; take torch.where, or masks instead of "
            f"selections (torch says: {reason})"
        )
    return ExportError(f"torch cannot trace the model with a batch of any size{where}: {reason}")
