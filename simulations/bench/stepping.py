"""How fast a device's training step is on each runtime, and the memory of a process that trains on it.

A step is forward, backward and the product's own checks, on one thread. The runtimes take turns, step by step, so that a
machine that others use slows all of them; times are medians. torch's eager mode is the measure: the module's own forward,
``cross_entropy`` and ``backward``. Resident memory is that of a process of its own after some steps, which
``python -m simulations.bench.stepping`` is.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec
import numpy as np

from edge_client.executorch_program import load_executorch_program
from edge_client.program import TrainingProgram
from wire.errors import FleetError, ProgramError
from wire.manifest import ModelManifest, decode_manifest

if TYPE_CHECKING:
    import torch

__all__ = ["RUNTIMES", "StepRow", "bench_steps", "main"]

Runtime = Literal["torch", "onnx", "executorch", "executorch-torch"]
RUNTIMES: tuple[Runtime, ...] = ("torch", "onnx", "executorch", "executorch-torch")
"""torch eager; ONNX Runtime; ExecuTorch through the C interface; ExecuTorch through its Python package, with torch."""

MEMORY_STEPS = 20


class StepRow(msgspec.Struct, frozen=True, kw_only=True):
    """One model on one runtime.

    Args:
        model: Its name.
        runtime: One of ``RUNTIMES``.
        batch: Examples in a step.
        ms_per_step: Median of the wall time, in milliseconds.
        ratio_to_torch: To torch eager in the same run.
        resident_mb: Resident memory of a process after some steps, in 10**6 bytes.
    """

    model: str
    runtime: Runtime
    batch: int
    ms_per_step: float
    ratio_to_torch: float
    resident_mb: float


def bench_steps(name: str, batch: int, num_steps: int) -> list[StepRow]:
    """Export a model, and time its step on every runtime that this machine has.

    Args:
        name: One of ``STEP_MODELS``.
        batch: Examples in a step, at least 1.
        num_steps: That are timed, after three.

    Raises:
        ExportError: If the model cannot be exported.
        FleetError: If a process that measures memory fails.
    """
    import torch  # noqa: PLC0415 - this module measures a device's memory, too

    from export.model_folder import export_program  # noqa: PLC0415 - the same
    from simulations.bench.step_models import STEP_MODELS  # noqa: PLC0415 - the same

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / name
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            model = STEP_MODELS[name]()
        export_program(model, name, folder)
        x, y = _draw_batch(_manifest(folder), batch)
        steps: dict[Runtime, Callable[[], object]] = {"torch": _eager_step(model.module, x, y)}
        for runtime in RUNTIMES[1:]:
            try:
                steps[runtime] = _step(_load(runtime, folder), x, y)
            except ProgramError as missing:
                sys.stderr.write(f"{runtime} is left out: {missing}\n")
        times = _take_turns(steps, num_steps)
        return [
            StepRow(
                model=name,
                runtime=runtime,
                batch=batch,
                ms_per_step=times[runtime],
                ratio_to_torch=times[runtime] / times["torch"],
                resident_mb=_measure_memory(runtime, name, folder, batch),
            )
            for runtime in steps
        ]


def _eager_step(module: torch.nn.Module, x: np.ndarray, y: np.ndarray) -> Callable[[], object]:
    """Return a step of torch's eager mode."""
    import torch  # noqa: PLC0415 - who measures a runtime's memory has no torch

    inputs, targets = torch.from_numpy(x), torch.from_numpy(y)

    def step() -> None:
        module.zero_grad()
        torch.autograd.backward(torch.nn.functional.cross_entropy(module(inputs), targets))

    return step


def _step(program: TrainingProgram, x: np.ndarray, y: np.ndarray) -> Callable[[], object]:
    """Return a step of a program."""
    rng = np.random.default_rng(0)
    params = {it.name: rng.normal(0, 0.1, it.shape).astype(np.float32) for it in program.manifest.parameters}
    return lambda: program.train_step(params, x, y)


def _take_turns(steps: dict[Runtime, Callable[[], object]], num_steps: int) -> dict[Runtime, float]:
    """Return the median milliseconds of each step."""
    taken: dict[Runtime, list[float]] = {runtime: [] for runtime in steps}
    for number in range(-3, num_steps):
        for runtime, step in steps.items():
            started_s = time.perf_counter()
            step()
            if number >= 0:
                taken[runtime].append(1000 * (time.perf_counter() - started_s))
    return {runtime: statistics.median(times) for runtime, times in taken.items()}


def _measure_memory(runtime: Runtime, name: str, folder: Path, batch: int) -> float:
    """Return the resident memory of a process of its own that has trained."""
    command = [sys.executable, "-m", "simulations.bench.stepping", runtime, name, str(folder), str(batch)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)  # noqa: S603 - our own module
    if done.returncode:
        raise FleetError(
            f"{name} on {runtime} ended with {done.returncode}: {done.stderr.strip().rpartition(chr(10))[2]}"
        )
    return float(done.stdout.split()[-1])


def main(arguments: list[str]) -> None:
    """Train some steps on one runtime, and print this process's resident memory in 10**6 bytes."""
    runtime, name, folder, batch = arguments
    x, y = _draw_batch(_manifest(Path(folder)), int(batch))
    if runtime == "torch":
        from simulations.bench.step_models import STEP_MODELS  # noqa: PLC0415 - torch alone needs it

        step = _eager_step(STEP_MODELS[name]().module, x, y)
    else:
        step = _step(_load(runtime, Path(folder)), x, y)
    for _ in range(MEMORY_STEPS):
        step()
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    sys.stdout.write(f"{int(status['VmRSS'].split()[0]) * 1024 / 1e6:.1f}\n")


def _load(runtime: str, folder: Path) -> TrainingProgram:
    """Return the program on a runtime; each imports only what it needs."""
    if runtime == "onnx":
        from edge_client.onnx_program import load_onnx_program  # noqa: PLC0415 - memory is measured

        return load_onnx_program(folder, _manifest(folder))
    if runtime == "executorch":
        from edge_client.native.method import native_loader as loader  # noqa: PLC0415 - the same
    else:
        from edge_client.executorch_torch import torch_loader as loader  # noqa: PLC0415 - the same
    return load_executorch_program(folder, _manifest(folder), loader())


def _manifest(folder: Path) -> ModelManifest:
    return decode_manifest((folder / "manifest.json").read_bytes())


def _draw_batch(manifest: ModelManifest, batch: int) -> tuple[np.ndarray, np.ndarray]:
    inputs = np.random.default_rng(0).normal(size=(batch, *manifest.input_shape)).astype(np.float32)
    return inputs, np.arange(batch) % manifest.num_classes


if __name__ == "__main__":
    main(sys.argv[1:])
