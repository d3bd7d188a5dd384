"""The training step as one graph: forward, loss and backward, with the parameters as inputs.

::

    train(*parameters, x, y) -> (loss, logits, *gradients)
    predict(*parameters, x)  -> (logits,)

torch joins forward and backward (``torch.export.experimental``, as ExecuTorch's own training does). The parameters enter
as inputs, so a program holds no weights: one export serves every device, every round and every choice of personal layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch.export import ExportedProgram
from torch.export.experimental import _export_forward_backward
from torch.nn.attention import SDPBackend, sdpa_kernel

from export.culprit import refuse_random_operators
from export.models import TrainableModel
from export.simplification import restore_threshold_backward
from wire.errors import ExportError

__all__ = ["LARGEST_BATCH", "trace_prediction", "trace_training"]

LARGEST_BATCH = 64
"""The batch for which ExecuTorch plans memory; a greater one runs in pieces."""

TRACED_BATCH = 5
"""Not 1, which torch would take for a constant, and no size that a model's dimensions are likely to have."""


class _TrainStep(torch.nn.Module):
    """Forward, mean cross-entropy and logits as a function of the parameters.

    Cross-entropy is log-softmax times the one-hot targets: a gather's backward is a scatter, which some runtimes get wrong.

    Args:
        model: The model; its own values are never read.
    """

    def __init__(self, model: TrainableModel) -> None:
        """Keep the module out of reach of torch's registration: its parameters come as inputs."""
        super().__init__()
        self._call = _functional(model)
        self._classes = torch.arange(model.num_classes)

    def forward(
        self, params: list[torch.Tensor], x: torch.Tensor, y: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the loss and, outside of the gradient, the logits."""
        logits = self._call(params, x)
        one_hot = (y.unsqueeze(-1) == self._classes).to(logits.dtype)
        loss = -(torch.nn.functional.log_softmax(logits, dim=-1) * one_hot).sum() / x.shape[0]
        return loss, logits.detach()


class _Predict(torch.nn.Module):
    """The logits as a function of the parameters.

    Args:
        model: The model; its own values are never read.
    """

    def __init__(self, model: TrainableModel) -> None:
        """Keep the module out of reach of torch's registration."""
        super().__init__()
        self._call = _functional(model)

    def forward(self, params: list[torch.Tensor], x: torch.Tensor) -> tuple[torch.Tensor]:
        """Return the logits."""
        return (self._call(params, x),)


class _JointGraph(torch.nn.Module):
    """The joined graph as a plain function, its gradients outputs like any other.

    Args:
        program: Forward and backward; its own constants become buffers here.
    """

    def __init__(self, program: ExportedProgram) -> None:
        """Take over the graph and its constants."""
        super().__init__()
        self._graph = program.graph_module
        signature = program.graph_signature
        constants = {**signature.inputs_to_lifted_tensor_constants, **signature.inputs_to_buffers}
        held = {**program.constants, **program.state_dict}
        nodes = [node.name for node in program.graph.nodes if node.op == "placeholder"]
        self._constants = [held[constants[name]] if name in constants else None for name in nodes]

    def forward(self, params: list[torch.Tensor], x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return loss, logits and gradients."""
        inputs = iter([*params, x, y])
        return tuple(self._graph(*(next(inputs) if held is None else held for held in self._constants)))


def trace_training(model: TrainableModel) -> ExportedProgram:
    """Return ``train(*parameters, x, y) -> (loss, logits, *gradients)`` in torch's operators.

    Args:
        model: A model that ``check_model`` accepts.

    Returns:
        A pure function; its batch may have any size in ``[1, LARGEST_BATCH]``.

    Raises:
        ExportError: If torch cannot trace it, or an operator is random.
    """
    params, x, y = _examples(model)
    with _tracing():
        batch = torch.export.Dim("batch", min=1, max=LARGEST_BATCH)
        shapes = ([None] * len(params), {0: batch}, {0: batch})
        for values in params:
            values.requires_grad_()
        program = torch.export.export(_TrainStep(model), (params, x, y), dynamic_shapes=shapes, strict=False)
        program = _export_forward_backward(program)
        refuse_random_operators(model, program)
        restore_threshold_backward(program.graph)
        program.graph_module.recompile()
        params = [values.detach() for values in params]
        return torch.export.export(_JointGraph(program), (params, x, y), dynamic_shapes=shapes, strict=False)


def trace_prediction(model: TrainableModel) -> ExportedProgram:
    """Return ``predict(*parameters, x) -> (logits,)`` in torch's operators, otherwise as ``trace_training``."""
    params, x, _ = _examples(model)
    with _tracing():
        shapes = ([None] * len(params), {0: torch.export.Dim("batch", min=1, max=LARGEST_BATCH)})
        program = torch.export.export(_Predict(model), (params, x), dynamic_shapes=shapes, strict=False)
        return program.run_decompositions()


def _functional(model: TrainableModel) -> Callable[[list[torch.Tensor], torch.Tensor], torch.Tensor]:
    """Return the module as a function of its parameters and inputs."""
    names = [name for name, _ in model.module.named_parameters()]

    def call(params: list[torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        named = dict(zip(names, params, strict=True))
        logits: torch.Tensor = torch.func.functional_call(model.module, named, (x,))
        return logits

    return call


def _examples(model: TrainableModel) -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor]:
    """Return parameters, inputs and targets to trace with; only their shapes count."""
    params = [torch.zeros_like(values, requires_grad=False) for values in model.module.parameters()]
    return params, torch.zeros(TRACED_BATCH, *model.input_shape), torch.zeros(TRACED_BATCH, dtype=torch.int64)


@contextmanager
def _tracing() -> Iterator[None]:
    """Attention in plain operators; what torch cannot trace is refused in one line."""
    with sdpa_kernel(SDPBackend.MATH):
        try:
            yield
        except ExportError:
            raise
        except Exception as error:  # torch raises dozens of its own, and asserts
            reason = str(error).strip().splitlines()[0]
            raise ExportError(f"torch cannot trace the model with a batch of any size: {reason}") from error
