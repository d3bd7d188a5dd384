"""Time a training step on every runtime, and measure the memory of a process that trains on it.

Usage: ``scripts/bench-runtimes [MODEL ...]``, by default ``watch-cnn image-cnn``.

A step is forward, backward and this project's checks, at a batch of 16, on one thread. The runtimes take turns, step by
step, so that a machine that others use slows all of them; the figures are medians. Memory is resident, in MB, each in a
process of its own: with the program loaded, and after 20 steps.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from edge_client.program import TrainingProgram
from wire.manifest import ModelManifest, decode_manifest

BATCH, NUM_STEPS, NUM_ROUNDS = 16, 20, 300
WAYS = ("onnx", "executorch", "executorch-torch")

Batch = tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]


def read_manifest(folder: Path) -> ModelManifest:
    """Return the manifest of an exported model."""
    return decode_manifest((folder / "manifest.json").read_bytes())


def load(way: str, folder: Path) -> TrainingProgram:
    """Return the program on one runtime; each imports only what it needs."""
    if way == "onnx":
        from edge_client.onnx_program import load_onnx_program  # noqa: PLC0415 - memory is measured

        return load_onnx_program(folder, read_manifest(folder))
    from edge_client.executorch_program import load_executorch_program  # noqa: PLC0415 - the same
    from edge_client.executorch_torch import torch_loader  # noqa: PLC0415 - the same
    from edge_client.native.method import native_loader  # noqa: PLC0415 - the same

    loader = native_loader() if way == "executorch" else torch_loader()
    return load_executorch_program(folder, read_manifest(folder), loader)


def make_batch(manifest: ModelManifest) -> Batch:
    """Return params, inputs and targets."""
    generator = np.random.default_rng(0)
    params = {it.name: generator.normal(0, 0.1, it.shape).astype(np.float32) for it in manifest.parameters}
    inputs = generator.normal(size=(BATCH, *manifest.input_shape)).astype(np.float32)
    return params, inputs, np.arange(BATCH) % manifest.num_classes


def resident_mb() -> float:
    """Return this process's resident memory."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmRSS"].split()[0]) / 1000


def measure_memory(way: str, folder: Path) -> None:
    """Print the memory of this process before, with the program, and after some steps; it is a process of its own."""
    figures = [resident_mb()]
    program = load(way, folder)
    figures.append(resident_mb())
    batch = make_batch(read_manifest(folder))
    for _ in range(NUM_STEPS):
        program.train_step(*batch)
    print(*(f"{figure:.0f}" for figure in (*figures, resident_mb())))


def eager_step(model_name: str, batch: Batch) -> Callable[[], None]:
    """Return the same step in torch's eager mode."""
    import torch  # noqa: PLC0415 - memory is measured

    from export.models import load_model  # noqa: PLC0415 - the same

    torch.set_num_threads(1)
    module = load_model(model_name).module
    x, y = torch.from_numpy(batch[1]), torch.from_numpy(batch[2])

    def step() -> None:
        module.zero_grad()
        torch.nn.functional.cross_entropy(module(x), y).backward()  # type: ignore[no-untyped-call]

    return step


def time_steps(steps: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Return the median milliseconds of each step; they take turns."""
    times: dict[str, list[float]] = {way: [] for way in steps}
    for _ in range(NUM_ROUNDS):
        for way, step in steps.items():
            started_s = time.perf_counter()
            step()
            times[way].append(1000 * (time.perf_counter() - started_s))
    return {way: statistics.median(taken) for way, taken in times.items()}


def main(models: list[str]) -> None:
    """Print a line for each model and runtime."""
    import torch  # noqa: PLC0415 - memory is measured

    from export.model_folder import export_program  # noqa: PLC0415 - the same
    from export.models import load_model  # noqa: PLC0415 - the same

    for name in models or ["watch-cnn", "image-cnn"]:
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place) / name
            torch.manual_seed(1)
            export_program(load_model(name), name, folder)
            batch = make_batch(read_manifest(folder))
            steps: dict[str, Callable[[], object]] = {
                way: partial(load(way, folder).train_step, *batch) for way in WAYS
            }
            steps["torch eager"] = eager_step(name, batch)
            for way, step_ms in time_steps(steps).items():
                line = f"{name} {way}: {step_ms:.2f} ms"
                if way in WAYS:
                    command = [sys.executable, __file__, "--memory", way, str(folder)]
                    done = subprocess.run(command, capture_output=True, text=True, check=True)
                    line += "; {} MB before, {} loaded, {} after steps".format(*done.stdout.split()[-3:])
                print(line, flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--memory"]:
        measure_memory(sys.argv[2], Path(sys.argv[3]))
    else:
        main(sys.argv[1:])
