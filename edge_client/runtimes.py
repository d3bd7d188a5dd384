"""Which runtime trains on this device, and the program in it.

Each runtime is imported where it is chosen: a device may have one alone.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path
from typing import Literal

from edge_client.program import TrainingProgram
from wire.errors import ProgramError
from wire.manifest import ModelManifest

__all__ = ["Runtime", "choose_runtime", "load_program"]

Runtime = Literal["onnx", "executorch"]

log = logging.getLogger(__name__)


def choose_runtime(wanted: Runtime) -> Runtime:
    """Return the runtime that will be used: ONNX Runtime instead of ExecuTorch where that cannot run, with a warning.

    It is chosen before the device says to its fleet which of the program's files it needs. Where ExecuTorch's C interface
    has to be compiled first, this takes seconds.
    """
    if wanted == "executorch":
        from edge_client.executorch_program import executorch_loader  # noqa: PLC0415 - for who wants it

        try:
            executorch_loader()
        except ProgramError as error:
            log.warning('ONNX Runtime is used instead of ExecuTorch: %s; or set runtime = "onnx"', error)
            return "onnx"
    return wanted


def load_program(
    runtime: Runtime, folder: Path, manifest: ModelManifest, layers: Collection[str] = ()
) -> TrainingProgram:
    """Return the program in this folder.

    Args:
        runtime: What ``choose_runtime`` gave.
        folder: Where its files lie.
        manifest: What they must be.
        layers: Whose gradients are asked for; none is all.

    Raises:
        ManifestError: If a file is not the one that the manifest names, or not what the manifest says.
        ProgramError: If a file cannot be read, loaded or run.
    """
    if runtime == "executorch":
        from edge_client.executorch_program import load_executorch_program  # noqa: PLC0415 - for who wants it

        return load_executorch_program(folder, manifest, layers=layers)
    from edge_client.onnx_program import load_onnx_program  # noqa: PLC0415 - a device may have one runtime alone

    return load_onnx_program(folder, manifest, layers)
