"""The C interface is compiled once on each device, against the executorch package that is installed there.

The package is found without importing it, since that would import torch. The library lies in the user's cache, under a
name that says what it was made from; the compiler is not part of it, so that it may be removed afterwards.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from wire.errors import ProgramError

__all__ = [
    "HOW_TO_INSTALL",
    "Executorch",
    "build_library",
    "build_once",
    "cache_folder",
    "compile_library",
    "find_compiler",
    "find_executorch",
    "library_path",
    "run_compiler",
]

SOURCE = Path(__file__).with_name("runtime.cpp")
COMPILERS = ("c++", "g++", "clang++")
COMPILE_S = 600.0
"""A small board needs a minute."""

FLAGS = (
    *("-O2", "-std=c++17", "-fPIC", "-shared", "-fvisibility-inlines-hidden"),
    # what the wheel's own CMake package asks of its users
    *("-DC10_USING_CUSTOM_GENERATED_MACROS", "-DET_EVENT_TRACER_ENABLED", "-DET_USE_THREADPOOL"),
)
LIBRARIES = ("executorch", "executorch_kernels_optimized", "executorch_backend_xnnpack", "executorch_threadpool")

HOW_TO_INSTALL = "pip install --no-deps executorch==1.5.1"


@dataclass(frozen=True)
class Executorch:
    """An installed executorch package.

    Args:
        folder: With ``include`` and ``lib``.
        version: Of the package.
    """

    folder: Path
    version: str


def build_library() -> Path:
    """Return the library for this device; it is compiled if it is not there yet.

    Raises:
        ProgramError: If executorch or a compiler is missing, the compiler fails, or the cache cannot be written.
    """
    package = find_executorch()

    def build(compiler: Sequence[str], path: Path) -> None:
        compile_library(compiler, package.folder, path)

    return build_once(library_path(package), build)


def build_once(path: Path, build: Callable[[Sequence[str], Path], None]) -> Path:
    """Return a library of the cache; it is compiled if it is not there yet.

    Two processes may build at once: each builds for itself, and the last one's file stays.

    Args:
        path: Of the file, under ``cache_folder()``.
        build: Calls the compiler of this command, and has it write there.

    Raises:
        ProgramError: If there is no compiler, it fails, or the cache cannot be written.
    """
    if path.exists():
        return path
    compiler = find_compiler()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix="building-") as folder:
            built = Path(folder) / path.name
            build(compiler, built)
            built.replace(path)
    except OSError as error:
        raise ProgramError(f"cannot write {path}: {error.strerror}; XDG_CACHE_HOME names another folder") from error
    return path


def cache_folder() -> Path:
    """Return where compiled libraries are kept: in the user's cache."""
    named = os.environ.get("XDG_CACHE_HOME", "")
    cache = Path(named) if os.path.isabs(named) else Path.home() / ".cache"  # noqa: PTH117 - the standard's words
    return cache / "fedlag"


def find_executorch() -> Executorch:
    """Return the installed package; nothing of it is imported.

    Raises:
        ProgramError: If there is none, or one without C++ libraries.
    """
    spec = importlib.util.find_spec("executorch")
    folders = [Path(folder) for folder in (spec and spec.submodule_search_locations) or ()]
    if not folders:
        raise ProgramError(f"executorch is not installed: {HOW_TO_INSTALL}")
    try:
        version = importlib.metadata.version("executorch")
    except importlib.metadata.PackageNotFoundError:
        version = "of unknown version"
    for folder in folders:
        if (folder / "include").is_dir() and (folder / "lib" / "libexecutorch.so").exists():
            return Executorch(folder, version)
    raise ProgramError(
        f"executorch {version} in {folders[0]} has no C++ libraries for Linux, 1.5 or newer has: {HOW_TO_INSTALL}"
    )


def find_compiler() -> list[str]:
    """Return the C++ compiler's command: ``$CXX``, or the first of the usual names that is there.

    Raises:
        ProgramError: If there is none.
    """
    named = shlex.split(os.environ.get("CXX", ""))
    for command in (named, *([name] for name in COMPILERS)):
        if command and shutil.which(command[0]):
            return command
    raise ProgramError(f"there is no C++ compiler ($CXX, {', '.join(COMPILERS)}): apt install g++")


def library_path(package: Executorch) -> Path:
    """Return where the library for this package is kept, whether it is there or not."""
    made_from = (SOURCE.read_text(), package.version, str(package.folder), platform.machine(), FLAGS, LIBRARIES)
    digest = hashlib.sha256(repr(made_from).encode()).hexdigest()[:16]
    return cache_folder() / f"executorch-{digest}.so"


def compile_library(compiler: Sequence[str], package: Path, output: Path, more_flags: Sequence[str] = ()) -> Path:
    """Compile the C interface.

    Args:
        compiler: Its command.
        package: The executorch package's folder, for the machine that the compiler compiles for.
        output: The file to write.
        more_flags: For the compiler.

    Returns:
        ``output``.

    Raises:
        ProgramError: If the compiler refuses or takes too long.
    """
    include = package / "include"
    command = [
        *(*compiler, *FLAGS, *more_flags, str(SOURCE), "-o", str(output)),
        *("-isystem", str(include), "-isystem", str(include / "executorch/runtime/core/portable_type/c10")),
        *("-L" + str(package / "lib"), "-Wl,--no-as-needed", *(f"-l{name}" for name in LIBRARIES)),
        *("-Wl,-z,defs", "-Xlinker", "-rpath", "-Xlinker", str(package / "lib")),
    ]
    run_compiler(command, f"{SOURCE.name} against {package}")
    return output


def run_compiler(command: Sequence[str], what: str) -> None:
    """Compile something.

    Args:
        command: The compiler's, with all arguments.
        what: It compiles, for people.

    Raises:
        ProgramError: If the compiler refuses or takes too long.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMPILE_S, check=False)  # noqa: S603 - the user's compiler
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ProgramError(f"{command[0]} cannot compile {what}: {error}") from error
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        said = next((line for line in lines if "error" in line), lines[-1])
        raise ProgramError(f"{command[0]} cannot compile {what}: {said}")
