"""Silence for what torch, torchao and ONNX say about themselves while exporting; their errors still come through."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["quiet_exporters"]

CHATTY_LOGGERS = (
    "executorch.backends.xnnpack.partition.xnnpack_partitioner",  # prefers one call to two
    "onnx_ir.passes.common.unused_removal",
    "onnxscript.optimizer",
    "torch.onnx._internal.exporter._registration",  # torchvision is not installed
    "torch.utils._pytree",  # torchao registers an enumeration the old way
    "torchao",  # its CUDA kernels cannot be loaded
)


@contextmanager
def quiet_exporters() -> Iterator[None]:
    """Hide the exporters' known warnings and log lines, and nothing else, while the block runs."""
    levels = {name: logging.getLogger(name).level for name in CHATTY_LOGGERS}
    for name in CHATTY_LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            for module in ("copyreg", "executorch", "importlib", "onnx", "onnxscript", "torch", "torchao"):
                warnings.filterwarnings("ignore", module=rf"{module}(\.|$)")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
