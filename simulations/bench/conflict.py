"""How fast conflict detection is, against the plain product of matrices that it cannot do without."""

from __future__ import annotations

import resource
import statistics
import time

import msgspec
import numpy as np

from aggregator.conflict import layer_conflict

__all__ = ["ConflictRow", "bench_conflict"]

KIB_PER_MIB = 1024


class ConflictRow(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured.

    Args:
        devices: Devices in the cohort.
        params: Parameters of the layer.
        cpu_ms: Processor time of ``layer_conflict``, median.
        sgemm_cpu_ms: Processor time of one float32 product of the updates with a copy of themselves, median.
        ratio_to_sgemm: How many times as fast as that product it is, median of the repetitions.
        extra_memory_mb: By how much the process's largest resident size grew, in MiB.
    """

    devices: int
    params: int
    cpu_ms: float
    sgemm_cpu_ms: float
    ratio_to_sgemm: float
    extra_memory_mb: float


def bench_conflict(devices: int, params: int, repetitions: int) -> ConflictRow:
    """Return what it takes to count the conflicts of random updates; the two programs take turns."""
    updates = np.random.default_rng(0).standard_normal((devices, params), dtype=np.float32)
    before = _peak_mib()
    layer_conflict(updates, 0.0)
    extra = _peak_mib() - before
    other = updates.copy()
    ours, product = [], []
    for _ in range(repetitions):
        begin = time.process_time()
        layer_conflict(updates, 0.0)
        ours.append(time.process_time() - begin)
        begin = time.process_time()
        _ = updates @ other.T
        product.append(time.process_time() - begin)
    return ConflictRow(
        devices=devices,
        params=params,
        cpu_ms=statistics.median(ours) * 1e3,
        sgemm_cpu_ms=statistics.median(product) * 1e3,
        ratio_to_sgemm=statistics.median(b / a for a, b in zip(ours, product, strict=True)),
        extra_memory_mb=extra,
    )


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / KIB_PER_MIB
