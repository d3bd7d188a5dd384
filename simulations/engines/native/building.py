"""The loops are compiled once on each machine, for the vectors that its processor has."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from edge_client.native.building import build_once, cache_folder, run_compiler

__all__ = ["build_loops"]

FOLDER = Path(__file__).parent
SOURCES = ("training.cpp", "chain.hpp", "links.hpp", "products.hpp")
FLAGS = ("-O3", "-march=native", "-std=c++17", "-fPIC", "-shared", "-fvisibility=hidden")
CPU_INFO = Path("/proc/cpuinfo")


def build_loops(real: Literal["float", "double"]) -> Path:
    """Return the library for a type of numbers; it is compiled if it is not there yet, which takes some seconds.

    Args:
        real: C's name of the type.

    Raises:
        ProgramError: If there is no C++ compiler, it fails, or the cache cannot be written.
    """
    made_from = (*((FOLDER / name).read_text() for name in SOURCES), FLAGS, real, platform.machine(), _processor())
    digest = hashlib.sha256(repr(made_from).encode()).hexdigest()[:16]

    def compile_loops(compiler: Sequence[str], path: Path) -> None:
        command = [*compiler, *FLAGS, f"-DREAL={real}", str(FOLDER / SOURCES[0]), "-o", str(path)]
        run_compiler(command, SOURCES[0])

    return build_once(cache_folder() / f"loops-{digest}.so", compile_loops)


def _processor() -> str:
    """Return what the processor can do; two machines may share a home, but not what was compiled for one of them."""
    if not CPU_INFO.exists():
        return platform.processor()
    lines = CPU_INFO.read_text().splitlines()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")
