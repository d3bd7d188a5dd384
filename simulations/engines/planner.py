"""Which engine, how many clients at once, and on how many processes: guessed from the model, confirmed by a second's trial.

What wins depends on the model. A chain is best trained in compiled loops or, without a compiler, stacked in chunks that fit
the processor's cache; ``vmap`` and the serial loop share the rest between them. Several processes are worth their start only where a round takes long. A GPU trains as
many clients at once as its memory holds, and is chosen where it is faster than all cores together.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from simulations.engines.batches import Batches
from simulations.engines.chain import NotAChainError
from simulations.engines.cuda import CUDA_ENGINES
from simulations.engines.engine import CPU, Engine, StepRule
from simulations.engines.model import SimulatedModel, install
from simulations.engines.native.engine import NativeEngine
from simulations.engines.population import ResidentSplit
from simulations.engines.products import ProductEngine
from simulations.engines.serial import SerialEngine
from simulations.engines.stacked import StackedEngine
from simulations.engines.vmapped import VmapEngine
from wire.errors import ConfigError, ProgramError

__all__ = ["CPU_ENGINES", "ENGINES", "Plan", "make_engine", "num_cores", "one_thread_plan", "plan"]

CPU_ENGINES: dict[str, Callable[[SimulatedModel], Engine]] = {
    "serial": SerialEngine,
    "stacked": StackedEngine,
    "native": NativeEngine,
    "products": ProductEngine,
    "vmap": VmapEngine,
}
ENGINES = CPU_ENGINES | CUDA_ENGINES
CHUNK_SIZES = (2, 4, 10, 20, 50)
TRIAL_STEPS = 2
NUM_TRIALS = 3
CLIENTS_OF_GPU_TRIAL = 10
SHARE_OF_GPU_MEMORY = 0.4
"""An epoch as it was captured, and one that is trained step by step, may be there side by side."""
TRIAL_S = 1.0
WORTH_PROCESSES_S = 0.25
WORTH_CHANGING = 0.95

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """How clients are trained.

    Args:
        engine: A name in ``ENGINES``.
        chunk_size: Clients at once.
        num_processes: 1 is this one alone.
        step_s: Measured seconds of one client's step.
        is_on_ray: Whether the processes are those of a Ray cluster.
    """

    engine: str
    chunk_size: int
    num_processes: int
    step_s: float
    is_on_ray: bool = False

    def __str__(self) -> str:
        """Return one line for people."""
        return f"{self.way}: {self.step_s * 1e6:.0f} us a step"

    @property
    def way(self) -> str:
        """What decides how results are rounded: engine, clients at once, processes."""
        where = "in this process" if self.num_processes == 1 else f"in {self.num_processes} processes"
        if self.is_on_ray:
            where = f"on {self.num_processes} CPUs of a Ray cluster"
        return f"{self.engine}, {self.chunk_size} clients at once, {where}"


def make_engine(name: str, model: SimulatedModel) -> Engine:
    """Return the engine of this name.

    Raises:
        ConfigError: If there is none.
        NotAChainError: If the engine cannot train the model.
        ProgramError: If ``native`` cannot be compiled.
    """
    if name not in ENGINES:
        raise ConfigError(f"no engine is called {name!r}; choose one of {', '.join(ENGINES)}")
    return ENGINES[name](model)


def num_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def plan(model: SimulatedModel, cohort_size: int, num_steps: int, batch_size: int, rule: StepRule) -> Plan:
    """Return the fastest way that a trial of about a second finds.

    Args:
        model: What is trained.
        cohort_size: Clients in a round.
        num_steps: Steps of a client in a round.
        batch_size: Examples a step.
        rule: Of the steps.
    """
    best = one_thread_plan(model, cohort_size, batch_size, rule)
    if torch.cuda.is_available():
        on_gpu = _gpu_plan(model, cohort_size, batch_size, rule, "cuda")
        if on_gpu.step_s < best.step_s / min(num_cores(), cohort_size):
            return on_gpu
    is_long = best.step_s * cohort_size * num_steps > WORTH_PROCESSES_S
    return Plan(best.engine, best.chunk_size, min(num_cores(), cohort_size) if is_long else 1, best.step_s)


def one_thread_plan(
    model: SimulatedModel, cohort_size: int, batch_size: int, rule: StepRule, engine: str | None = None
) -> Plan:
    """Return the fastest engine and chunk on one thread.

    Args:
        model: What is trained.
        cohort_size: Clients in a round.
        batch_size: Examples a step.
        rule: Of the steps.
        engine: Try only this one.
    """
    if engine in CUDA_ENGINES:
        return _gpu_plan(model, cohort_size, batch_size, rule, engine)
    best: Plan | None = None
    begin = time.perf_counter()
    for name, chunk_size in _candidates(model, cohort_size, engine):
        if best is not None and time.perf_counter() - begin > TRIAL_S:
            break
        step_s = _trial(make_engine(name, model), chunk_size, batch_size, rule)
        if best is None or step_s < best.step_s * WORTH_CHANGING:
            best = Plan(name, chunk_size, 1, step_s)
    if best is None:
        raise ConfigError("a cohort needs at least one client")
    return best


def _gpu_plan(model: SimulatedModel, cohort_size: int, batch_size: int, rule: StepRule, engine: str) -> Plan:
    """Return how the GPU trains: with as many clients at once as a trial with a few says that it has memory for."""
    cuda, few = ENGINES["cuda"](model), min(CLIENTS_OF_GPU_TRIAL, cohort_size)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    _trial(cuda, few, batch_size, rule)
    bytes_per_client = (torch.cuda.max_memory_allocated() - before) / few
    free_bytes, _ = torch.cuda.mem_get_info()
    chunk_size = max(1, min(cohort_size, int(SHARE_OF_GPU_MEMORY * free_bytes / bytes_per_client)))
    return Plan(engine, chunk_size, 1, _trial(ENGINES[engine](model), chunk_size, batch_size, rule))


def _candidates(model: SimulatedModel, cohort_size: int, engine: str | None) -> Iterator[tuple[str, int]]:
    """Yield what to try, the likely winners first."""
    chunk_sizes = list({min(size, cohort_size) for size in CHUNK_SIZES})
    likely = 16_000_000 // (8 * model.num_params) + 1
    chunk_sizes.sort(key=lambda size: abs(size - likely))
    for name in [engine] if engine else _engines_for(model):
        if name == "serial":
            yield name, 1
        elif name == "native":  # it trains them one by one
            yield name, chunk_sizes[0]
        else:
            yield from ((name, size) for size in chunk_sizes)


def _engines_for(model: SimulatedModel) -> list[str]:
    """Return the engines that may be the fastest one for a model, and can train it here."""
    try:
        StackedEngine(model)
    except NotAChainError:
        return ["vmap", "serial"]
    try:
        NativeEngine(model)
    except ProgramError as error:
        log.info("engine native is not tried: %s", error)
        return ["stacked"]
    return ["native", "stacked"]


def _trial(engine: Engine, chunk_size: int, batch_size: int, rule: StepRule) -> float:
    """Return the seconds of one client's step, the best of three trials: the processor's, or a GPU's by the clock."""
    model = engine.model
    rows = {layer: torch.from_numpy(values) for layer, values in model.initial_values().items()}
    params = {name: values.to(engine.device) for name, values in install(model, rows, chunk_size).items()}
    shape = (TRIAL_STEPS, chunk_size, batch_size)
    examples = torch.arange(math.prod(shape))
    inputs = torch.rand(len(examples), *model.input_shape, generator=torch.Generator().manual_seed(0))
    nothing = np.zeros(0, dtype=np.int64)
    split = ResidentSplit(inputs, torch.zeros_like(examples), nothing, nothing).to(engine.device)
    weights = torch.full(shape, 1 / batch_size, device=engine.device)
    batches = Batches(split, examples.view(shape).to(engine.device), weights, (chunk_size,) * TRIAL_STEPS)
    is_on_gpu = engine.device != CPU
    clock = time.perf_counter if is_on_gpu else time.process_time
    seconds = []
    for _ in range(NUM_TRIALS + is_on_gpu):  # a GPU's second one is captured
        begin = clock()
        engine.train(params, batches, rule, params)
        if is_on_gpu:
            torch.cuda.synchronize()
        seconds.append(clock() - begin)
    return min(seconds) / (chunk_size * TRIAL_STEPS)
