"""What the peers cost, from the runs of one interleaved comparison: medians, ratios within a repetition, and losses."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from statistics import median

__all__ = ["LOSS_BAND", "Row", "Run", "check_losses", "format_json", "format_table", "summarize"]

LOSS_BAND = 0.05
HEADINGS = (
    ("workload", "peer", "CPU s/round", "wall s/round", "first round s", "peak MB", "CPU/ours", "CPU/serial", "loss"),
)


@dataclass(frozen=True)
class Run:
    """One program's run of one workload.

    Args:
        peer: Its name.
        workload: T, S or L.
        repetition: From 1; runs of the same repetition lie beside each other in time.
        cpu_s_per_round: CPU seconds of all its processes, after the first round.
        wall_s_per_round: The same by the clock.
        first_round_s: From the start of the process to the end of the first round.
        peak_memory_mb: The most that all its processes were seen to hold.
        loss: Training loss over all clients at the end, None where it was not told.
        initial_loss: The same before the first round.
        versions: Of what ran.
        problem: Why it does not count, or empty.
    """

    peer: str
    workload: str
    repetition: int
    cpu_s_per_round: float | None = None
    wall_s_per_round: float | None = None
    first_round_s: float | None = None
    peak_memory_mb: float | None = None
    loss: float | None = None
    initial_loss: float | None = None
    versions: dict[str, str] = field(default_factory=dict)
    problem: str = ""


@dataclass(frozen=True)
class Row:
    """One peer on one workload: medians over the repetitions, ratios of CPU time taken within each repetition."""

    workload: str
    peer: str
    cpu_s_per_round: float | None
    wall_s_per_round: float | None
    first_round_s: float | None
    peak_memory_mb: float | None
    cpu_ratio_to_ours: float | None
    cpu_ratio_to_serial: float | None
    loss: float | None
    versions: dict[str, str]
    problem: str


def check_losses(runs: Sequence[Run]) -> list[Run]:
    """Return the runs, with a problem where the model did not learn what the serial loop's learned.

    A loss has to lie below the initial one, and within ``LOSS_BAND`` (a share) of the serial loop's loss on the same
    workload where that has run. Runs that tell no loss stay as they are.
    """
    serial = {run.workload: run.loss for run in runs if run.peer == "serial" and run.loss is not None}
    return [replace(run, problem=run.problem or loss_problem(run, serial.get(run.workload))) for run in runs]


def loss_problem(run: Run, serial: float | None) -> str:
    """Return what is wrong with a run's loss, or nothing."""
    if run.loss is None:
        return ""
    if not run.loss < (run.initial_loss or float("inf")):
        return f"did not train: its loss went from {run.initial_loss} to {run.loss}"
    if serial is not None and not abs(run.loss - serial) <= LOSS_BAND * serial:
        return f"trained something else: its loss is {run.loss:.4f}, the serial loop's {serial:.4f}"
    return ""


def summarize(runs: Sequence[Run]) -> list[Row]:
    """Return a row for every peer and workload, in the order in which they first ran."""
    pairs = dict.fromkeys((run.workload, run.peer) for run in runs)
    cpu_s = {
        (run.workload, run.peer, run.repetition): run.cpu_s_per_round
        for run in runs
        if run.cpu_s_per_round and not run.problem
    }

    def ratio(workload: str, peer: str, other: str) -> float | None:
        """Return the median over the repetitions in which both ran."""
        ratios = [
            value / cpu_s[workload, other, repetition]
            for (at, of, repetition), value in cpu_s.items()
            if (at, of) == (workload, peer) and (workload, other, repetition) in cpu_s
        ]
        return median(ratios) if ratios else None

    rows = []
    for workload, peer in pairs:
        all_runs = [run for run in runs if (run.workload, run.peer) == (workload, peer)]
        good = [run for run in all_runs if not run.problem]
        rows.append(
            Row(
                workload=workload,
                peer=peer,
                cpu_s_per_round=median_of([run.cpu_s_per_round for run in good]),
                wall_s_per_round=median_of([run.wall_s_per_round for run in good]),
                first_round_s=median_of([run.first_round_s for run in good]),
                peak_memory_mb=median_of([run.peak_memory_mb for run in good]),
                cpu_ratio_to_ours=ratio(workload, peer, "ours"),
                cpu_ratio_to_serial=ratio(workload, peer, "serial"),
                loss=median_of([run.loss for run in good]),
                versions=all_runs[-1].versions,
                problem=next((run.problem for run in all_runs if run.problem), ""),
            )
        )
    return rows


def median_of(values: Sequence[float | None]) -> float | None:
    """Return the median of what is known, or None."""
    known = [value for value in values if value is not None]
    return median(known) if known else None


def format_table(rows: Sequence[Row]) -> str:
    """Return the rows as text for people, what went wrong and the versions under it."""
    lines = [*HEADINGS, *(cells(row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = ["  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
    text += [f"{row.workload} {row.peer}: {row.problem}" for row in rows if row.problem]
    versions = {name: version for row in rows for name, version in row.versions.items()}
    text.append("versions: " + ", ".join(f"{name} {version}" for name, version in sorted(versions.items())))
    return "\n".join(text)


def cells(row: Row) -> tuple[str, ...]:
    """Return a row's cells; a dash where nothing is known."""
    numbers = (
        (row.cpu_s_per_round, ".4f"),
        (row.wall_s_per_round, ".4f"),
        (row.first_round_s, ".1f"),
        (row.peak_memory_mb, ".0f"),
        (row.cpu_ratio_to_ours, ".2f"),
        (row.cpu_ratio_to_serial, ".2f"),
        (row.loss, ".4f"),
    )
    return (row.workload, row.peer, *("-" if value is None else format(value, form) for value, form in numbers))


def format_json(rows: Sequence[Row], runs: Sequence[Run], settings: dict[str, object]) -> str:
    """Return the rows, all runs behind them and the settings as JSON."""
    return json.dumps(
        {**settings, "rows": [asdict(row) for row in rows], "runs": [asdict(run) for run in runs]}, indent=2
    )
