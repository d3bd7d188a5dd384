"""The engine for a GPU: the clients' data stays there, and a whole local epoch is captured once and then replayed.

A step of a small model is a few dozen kernels of some microseconds each, so a GPU would mostly wait to be told what to do.
A CUDA graph tells it the whole epoch at once: the first chunk of a shape trains step by step, the second one is captured,
and every later one only copies its start and its order of examples in. Products are computed in full float32, unless the
engine is asked for speed before digits.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch

from simulations.engines.batches import Batches
from simulations.engines.chain import NotAChainError
from simulations.engines.compiled import CompiledEngine
from simulations.engines.engine import Engine, StepRule
from simulations.engines.model import SimulatedModel, Stack
from simulations.engines.products import ProductEngine
from simulations.engines.serial import SerialEngine
from simulations.engines.vmapped import VmapEngine
from wire.errors import ConfigError

__all__ = [
    "CUDA_ENGINES",
    "GraphEngine",
    "capture_graph",
    "compiled_cuda_engine",
    "cuda_engine",
    "serial_cuda_engine",
    "short_cuda_engine",
]

Work = Callable[[], tuple[Stack, torch.Tensor]]
Capture = Callable[[Work], tuple[tuple[Stack, torch.Tensor], Callable[[], object]]]
MOST_GRAPHS = 4
"""Each holds the memory of a chunk."""


@dataclass(frozen=True, eq=False)
class _Graph:
    """A captured epoch: what goes in, what comes out, both always in the same memory."""

    params: Stack
    anchor: Stack | None
    batches: Batches
    trained: Stack
    losses: torch.Tensor
    replay: Callable[[], object]


class GraphEngine:
    """Trains with another engine, and replays what it does once it has seen a shape before.

    Args:
        engine: Does the work; must neither wait for the device nor decide anything by what it computes.
        device: Where the work is done.
        capture: Runs some work, and returns its result and what fills that result anew.
        name: Of the whole.
        precision: Of products: ``torch.set_float32_matmul_precision``'s ``highest``, or ``high``, which rounds factors.
    """

    def __init__(
        self, engine: Engine, device: torch.device, capture: Capture, name: str = "cuda", precision: str = "highest"
    ) -> None:
        """Capture nothing yet."""
        self.name = name
        self.model = engine.model
        self.device = device
        self._precision = precision
        self._engine = engine
        self._capture = capture
        self._seen: set[Hashable] = set()
        self._graphs: dict[Hashable, _Graph] = {}

    def train(
        self, params: Stack, batches: Batches, rule: StepRule, anchor: Stack | None = None
    ) -> tuple[Stack, torch.Tensor]:
        """Return the trained parameters, and each client's mean loss over its steps.

        Raises:
            OutOfMemoryError: If the device has too little; what was captured is given back, so fewer clients may fit.
        """
        with self._giving_back(), _products_in(self._precision):
            return self._train(params, batches, rule, anchor)

    @contextmanager
    def _giving_back(self) -> Iterator[None]:
        """Let go of all that was captured where memory does not suffice."""
        try:
            yield
        except torch.OutOfMemoryError:
            self._graphs.clear()
            raise

    def _train(
        self, params: Stack, batches: Batches, rule: StepRule, anchor: Stack | None
    ) -> tuple[Stack, torch.Tensor]:
        anchor = anchor if rule.proximal else None
        shape = (rule, batches.active, batches.rows.shape, batches.split.inputs.data_ptr(), anchor is None)
        if shape not in self._seen:
            self._seen.add(shape)
            return self._engine.train(params, batches, rule, anchor)
        if shape not in self._graphs:
            if len(self._graphs) == MOST_GRAPHS:
                del self._graphs[next(iter(self._graphs))]
            self._graphs[shape] = self._record(params, batches, rule, anchor)
        graph = self._graphs[shape]
        _fill(graph.params, params)
        if graph.anchor is not None and anchor is not None:
            _fill(graph.anchor, anchor)
        graph.batches.rows.copy_(batches.rows)
        graph.batches.weights.copy_(batches.weights)
        graph.replay()
        return {name: values.clone() for name, values in graph.trained.items()}, graph.losses.clone()

    def gradients(
        self,
        params: Stack,
        inputs: torch.Tensor,
        targets: torch.Tensor,
        weights: torch.Tensor,
        trained: frozenset[str] | None = None,
    ) -> tuple[torch.Tensor, Stack]:
        """Return each client's loss on one batch, and its gradient for the trained parameters."""
        return self._engine.gradients(params, inputs, targets, weights, trained)

    def predict(self, params: Stack, inputs: torch.Tensor) -> torch.Tensor:
        """Return the logits, shape ``(clients, batch, num_classes)``."""
        with self._giving_back():
            return self._engine.predict(params, inputs)

    def _record(self, params: Stack, batches: Batches, rule: StepRule, anchor: Stack | None) -> _Graph:
        inside = {name: values.clone() for name, values in params.items()}
        pull = None if anchor is None else {name: values.clone() for name, values in anchor.items()}
        order = replace(batches, rows=batches.rows.clone(), weights=batches.weights.clone())
        _ = order.num_steps  # made on the host, so before
        (trained, losses), replay = self._capture(lambda: self._engine.train(inside, order, rule, pull))
        return _Graph(inside, pull, order, trained, losses, replay)


def cuda_engine(model: SimulatedModel) -> GraphEngine:
    """Return the engine for this machine's GPU that gives what the others give, and starts at once.

    Raises:
        ConfigError: If torch finds no GPU.
    """
    engine: Engine
    try:
        engine = ProductEngine(model)
    except NotAChainError:
        engine = VmapEngine(model)
    return GraphEngine(engine, _gpu(), capture_graph)


def compiled_cuda_engine(model: SimulatedModel) -> GraphEngine:
    """Return one that compiles first, and gives the same.

    Raises:
        ConfigError: If torch finds no GPU.
        NotAChainError: If the model is no chain.
    """
    return GraphEngine(CompiledEngine(model), _gpu(), capture_graph, "cuda-compiled")


def short_cuda_engine(model: SimulatedModel) -> GraphEngine:
    """Return one that compiles first, and is content with bfloat16 in convolutions and TF32 in other products.

    Raises:
        ConfigError: If torch finds no GPU.
        NotAChainError: If the model is no chain.
    """
    return GraphEngine(CompiledEngine(model, torch.bfloat16), _gpu(), capture_graph, "cuda-bf16", "high")


def serial_cuda_engine(model: SimulatedModel) -> SerialEngine:
    """Return the serial loop on this machine's GPU, against which the others are timed.

    Raises:
        ConfigError: If torch finds no GPU.
    """
    return SerialEngine(model, _gpu(), "cuda-serial")


def _gpu() -> torch.device:
    if not torch.cuda.is_available():
        raise ConfigError("engine cuda needs a GPU, and a torch that was built for it; without one take auto")
    torch.backends.cudnn.allow_tf32 = False
    return torch.device("cuda")


@contextmanager
def _products_in(precision: str) -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


CUDA_ENGINES: dict[str, Callable[[SimulatedModel], Engine]] = {
    "cuda": cuda_engine,
    "cuda-compiled": compiled_cuda_engine,
    "cuda-bf16": short_cuda_engine,
    "cuda-serial": serial_cuda_engine,
}


def capture_graph(work: Work) -> tuple[tuple[Stack, torch.Tensor], Callable[[], object]]:
    """Run work once, so that libraries make their plans, and then record it as a CUDA graph."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = work()
    return result, graph.replay


def _fill(there: Stack, values: Stack) -> None:
    for name, tensor in there.items():
        tensor.copy_(values[name])
