"""What it takes an aggregator to make a cohort's uploads durable, to read them again, and to average them.

The round log against the other way that comes to mind: each upload as a row of an SQLite table, committed. Both end with
``fsync`` for every upload; the two take turns.
"""

from __future__ import annotations

import sqlite3
import statistics
import tempfile
import time
from contextlib import closing
from pathlib import Path

import msgspec
import numpy as np

from aggregator.averaging import weighted_average
from aggregator.keeping.round_log import RoundLog
from wire.messages import Measurement, Summary

__all__ = ["LogRow", "bench_log"]

LAYER = "layer"
STATUS = Path("/proc/self/statm")
PAGE_BYTES = 4096


class LogRow(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured.

    Args:
        devices: Devices in the cohort.
        params: Parameters that each uploads, in one layer, float32.
        ms_per_upload: Wall time to append one and make it durable, median.
        ratio_to_sqlite: How many times as fast as a row of SQLite that is, median of the uploads.
        replay_s: Wall time to read the log again, as after a kill.
        average_s: Wall time of the average over all.
        resident_mb: By how much the process's resident memory is larger after the average than before the first upload, in
            10**6 bytes.
    """

    devices: int
    params: int
    ms_per_upload: float
    ratio_to_sqlite: float
    replay_s: float
    average_s: float
    resident_mb: float


def bench_log(devices: int, params: int) -> LogRow:
    """Log as many uploads as there are devices, below the folder for temporary files."""
    values = np.random.default_rng(0).standard_normal(params, dtype=np.float32)
    names = tuple(f"device-{index:05}" for index in range(devices))
    before = _resident_mb()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        logged, rows = [], []
        with closing(RoundLog(folder / "log")) as log, closing(_open_table(folder / "table.sqlite")) as table:
            for name in names:
                begin = time.perf_counter()
                log.append(name, LAYER, values)
                log.commit(name, _summary())
                logged.append(time.perf_counter() - begin)
                begin = time.perf_counter()
                table.execute("INSERT OR REPLACE INTO uploads VALUES (0, ?)", (values.tobytes(),))
                rows.append(time.perf_counter() - begin)
        begin = time.perf_counter()
        with closing(RoundLog(folder / "log")) as log:
            replay_s = time.perf_counter() - begin
            begin = time.perf_counter()
            weighted_average(log.rows(LAYER, names), dict.fromkeys(names, 1.0))
            average_s = time.perf_counter() - begin
    return LogRow(
        devices=devices,
        params=params,
        ms_per_upload=1e3 * statistics.median(logged),
        ratio_to_sqlite=statistics.median(b / a for a, b in zip(logged, rows, strict=True)),
        replay_s=replay_s,
        average_s=average_s,
        resident_mb=_resident_mb() - before,
    )


def _open_table(path: Path) -> sqlite3.Connection:
    """Return a table that keeps one upload: what is measured is a commit, not the size of the file."""
    table = sqlite3.connect(path, isolation_level=None)
    table.execute("PRAGMA journal_mode = WAL")
    table.execute("PRAGMA synchronous = FULL")
    table.execute("CREATE TABLE uploads (id INTEGER PRIMARY KEY, data BLOB)")
    return table


def _summary() -> Summary:
    measured = Measurement(loss=1.0, accuracy=0.5, num_examples=100)
    return Summary(
        epoch=0,
        round_number=1,
        plan="0" * 64,
        num_examples=100,
        num_steps=10,
        train_loss=1.0,
        layers={},
        before=measured,
        after=measured,
    )


def _resident_mb() -> float:
    return int(STATUS.read_text().split()[1]) * PAGE_BYTES / 1e6
