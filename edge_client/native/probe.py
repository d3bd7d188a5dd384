"""A file is first loaded and run in a helper process, because ExecuTorch ends the process at what it does not expect.

The helper runs the file as the device will, with zeros: at the largest batch that its memory was planned for, and at a
batch of one. What the runtime refuses, what ends the helper and what keeps it busy for too long are refused in one line.
"""

from __future__ import annotations

import ctypes
import math
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

from edge_client.executorch_method import FLOAT32, INT64
from edge_client.native.binding import LoadedMethod, most_bytes, open_library
from wire.errors import ProgramError

__all__ = ["main", "probe"]

PROBE_S = 60.0
"""Two batches take seconds on a small board."""

REFUSED = 3
"""The helper's exit code, its reason on standard output."""

TYPE_BYTES = {FLOAT32: 4, INT64: 8}
ROOM_BYTES = 2**28
"""For Python and the libraries, beside what a program may plan with."""

ROOT = Path(__file__).resolve().parents[2]


def probe(library: Path, data: bytes, num_batched: int, limit_s: float = PROBE_S) -> None:
    """Refuse a file that cannot be loaded and run.

    Args:
        library: What ``build_library`` gave.
        data: The file's bytes.
        num_batched: So many of its last inputs have the batch as their first dimension.
        limit_s: For the helper, until it is killed.

    Raises:
        ProgramError: With what happened in the helper.
    """
    command = [sys.executable, "-P", "-m", "edge_client.native.probe", str(library), str(num_batched)]
    python_path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH", ""))))
    environment = {**os.environ, "PYTHONPATH": python_path}
    try:
        done = subprocess.run(  # noqa: S603 - this Python, and a module of ours
            command, input=data, capture_output=True, env=environment, timeout=limit_s, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise ProgramError(f"it did not run within {limit_s:g} s") from error
    except OSError as error:
        raise ProgramError(f"it cannot be tried in a process of its own: {error.strerror}") from error
    if done.returncode == 0:
        return
    if done.returncode == REFUSED:
        raise ProgramError(done.stdout.decode(errors="replace").strip())
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    how = signal.Signals(-done.returncode).name if done.returncode < 0 else f"exit code {done.returncode}"
    raise ProgramError(f"it ends the process that runs it ({': '.join((how, *lines[-1:]))})")


def main(arguments: list[str]) -> None:
    """Try the file on standard input, in the helper process.

    Args:
        arguments: The library's path, and the number of inputs with a batch.
    """
    path, num_batched = Path(arguments[0]), int(arguments[1])
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (most_bytes() + ROOM_BYTES,) * 2)
    try:
        method = LoadedMethod(open_library(path), sys.stdin.buffer.read())
        for batch in (None, 1):
            _run(method, num_batched, batch)
    except (ProgramError, MemoryError, OverflowError) as error:
        sys.stdout.write(str(error) or "it needs more memory than there is")
        sys.stdout.flush()
        os._exit(REFUSED)
    os._exit(0)  # what is torn down now was never of use


def _run(method: LoadedMethod, num_batched: int, batch: int | None) -> None:
    """Run the method once, with zeros, at the largest batch or at this one."""
    shapes, memory = [], []
    first = len(method.inputs) - num_batched
    for index, (shape, kind) in enumerate(method.inputs):
        here = (batch, *shape[1:]) if batch is not None and shape and index >= first else shape
        if kind not in TYPE_BYTES:
            raise ProgramError(f"it takes tensors of type code {kind}, neither float32 nor int64")
        shapes.append(here)
        memory.append(ctypes.create_string_buffer(max(math.prod(here) * TYPE_BYTES[kind], 1)))
    method.run([ctypes.addressof(values) for values in memory], shapes)


if __name__ == "__main__":
    main(sys.argv[1:])
