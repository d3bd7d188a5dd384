"""Hold ExecuTorch's C interface on 64-bit ARM against this machine, without a board.

Usage: ``scripts/cross-check-aarch64 [MODEL ...]``, by default ``watch-cnn image-cnn``.

The interface is compiled for ARM against executorch's ARM wheel, which pip downloads, and runs each model's ``train.pte``
and ``predict.pte`` under QEMU. Its loss, logits and gradients must be those of this machine but for rounding.
Needs ``apt install g++-aarch64-linux-gnu qemu-user``. It says what the code computes there, not how fast.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from edge_client.executorch_method import FLOAT32, LoadMethod
from edge_client.native.building import compile_library
from edge_client.native.method import native_loader
from export.model_folder import export_program
from export.models import load_model

COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"
PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux2014_aarch64")
TOLERANCE = 1e-4
BATCHES = (1, 13, 64)


def download(folder: Path) -> Path:
    """Return the ARM wheel's package, of the version that is installed here."""
    wanted = f"executorch=={version('executorch').partition('+')[0]}"
    platforms = [word for name in PLATFORMS for word in ("--platform", name)]
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", *platforms]
    subprocess.run([*pip, "--dest", str(folder), wanted], check=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder, [name for name in archive.namelist() if name.startswith("executorch/")])
    return folder / "executorch"


def compile_driver(package: Path, folder: Path) -> Path:
    """Return the ARM program that runs a method once."""
    library = compile_library([COMPILER], package, folder / "libfedlag.so")
    driver = folder / "run_method"
    source = Path(__file__).with_name("run_method.cpp")
    links = ("-Wl,-rpath," + str(folder), "-Wl,-rpath-link," + str(package / "lib"))
    command = [COMPILER, "-O1", "-std=c++17", str(source), str(library), *links, "-o", str(driver)]
    subprocess.run(command, check=True)
    return driver


def greatest_error(driver: Path, file: Path, load: LoadMethod, batch: int) -> float:
    """Return how far ARM is from this machine, relative to each output's greatest value."""
    num_batched = 2 if file.stem == "train" else 1
    here = load(file.read_bytes(), num_batched)
    generator = np.random.default_rng(batch)
    arrays: list[np.ndarray] = []
    for index, (shape, kind) in enumerate(here.inputs):
        is_batched = index >= len(here.inputs) - num_batched
        size = (batch, *shape[1:]) if is_batched else shape
        arrays.append(
            generator.normal(0, 0.1, size).astype(np.float32) if kind == FLOAT32 else generator.integers(0, 7, size)
        )
    expected = here.run(arrays)
    with tempfile.TemporaryDirectory() as folder:
        sizes, values, outputs = (Path(folder) / name for name in ("sizes", "values", "outputs"))
        sizes.write_bytes(np.array([size for array in arrays for size in array.shape], np.int32).tobytes())
        values.write_bytes(b"".join(array.tobytes() for array in arrays))
        command = [
            EMULATOR,
            "-L",
            "/usr/aarch64-linux-gnu",
            str(driver),
            str(file),
            *map(str, (sizes, values, outputs)),
        ]
        subprocess.run(command, check=True)
        found = np.frombuffer(outputs.read_bytes(), np.float32)
    errors, start = [], 0
    for array in expected:
        there = found[start : start + array.size].reshape(array.shape)
        errors.append(float(np.abs(there - array).max() / max(np.abs(array).max(), 1e-6)))
        start += array.size
    return max(errors) if start == found.size else float("inf")


def main(models: list[str]) -> None:
    """Check each model, and end with 1 if one is off."""
    missing = [tool for tool in (COMPILER, EMULATOR) if shutil.which(tool) is None]
    if missing:
        sys.exit(f"{' and '.join(missing)} missing: apt install g++-aarch64-linux-gnu qemu-user")
    load, is_right = native_loader(), True
    with tempfile.TemporaryDirectory(prefix="aarch64-") as name:
        folder = Path(name)
        driver = compile_driver(download(folder), folder)
        for model in models or ["watch-cnn", "image-cnn"]:
            torch.manual_seed(1)
            export_program(load_model(model), model, folder / model)
            for file in (folder / model / "train.pte", folder / model / "predict.pte"):
                for batch in BATCHES:
                    error = greatest_error(driver, file, load, batch)
                    is_right &= error <= TOLERANCE
                    print(f"{model} {file.name} batch {batch}: relative error {error:.1e}")
    sys.exit(not is_right)


if __name__ == "__main__":
    main(sys.argv[1:])
