"""Conducting a study: run the cells that are missing, write each as it is done, and say how long the rest will take."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing
from typing import NamedTuple

from simulations.rounds.ray_cluster import num_cluster_cpus
from simulations.study.cell import PlannedCell
from simulations.study.crew import run_cells
from simulations.study.outcome import CellOutcome
from simulations.study.plan import StudyPlan
from simulations.study.remaining import Kind, Remaining, remaining_time
from simulations.study.store import ResultStore

__all__ = ["Progress", "conduct_study", "default_jobs"]

SETTLED = frozenset({"done", "diverged"})
"""A cell that failed is tried again by the next run: memory or a disk may be there then."""

SPREADING_ENGINES = frozenset({"processes", "ray"})


class Progress(NamedTuple):
    """How far a study is.

    Args:
        num_done: Cells that have an outcome, those of earlier runs included.
        num_cells: All of them.
        latest: The cell that was run last, and its outcome; None at the start.
        remaining: How long the others will take.
    """

    num_done: int
    num_cells: int
    latest: tuple[PlannedCell, CellOutcome] | None
    remaining: Remaining


def conduct_study(
    plan: StudyPlan,
    store: ResultStore,
    *,
    num_processes: int,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> None:
    """Run the plan's cells that the store does not hold yet.

    Args:
        plan: The study.
        store: Holds what was run before, and takes what is run now.
        num_processes: How many cells run at once.
        on_progress: Told at the start, and after every cell.

    Raises:
        StoreError: If the disk refuses.
    """
    if any(it.engine in SPREADING_ENGINES for it in plan.cells):
        num_processes = 1
    store.write_plan(plan)
    statuses = store.statuses()
    pending = {it.digest: it for it in plan.cells if statuses.get(it.digest) not in SETTLED}
    if any(it.engine == "ray" for it in pending.values()):
        num_cluster_cpus()  # without a cluster every cell would fail, one after the other
    measured: dict[Kind, list[float]] = {}
    walls = store.wall_seconds()
    for it in plan.cells:
        if it.digest not in pending:
            measured.setdefault((it.scenario, it.method), []).append(walls[it.digest])

    def progress(latest: tuple[PlannedCell, CellOutcome] | None) -> Progress:
        left = remaining_time([(it.scenario, it.method) for it in pending.values()], measured, num_processes)
        return Progress(len(plan.cells) - len(pending), len(plan.cells), latest, left)

    on_progress(progress(None))
    with closing(run_cells(list(pending.values()), min(num_processes, max(1, len(pending))))) as outcomes:
        for planned, outcome in outcomes:
            store.write(planned, outcome)
            del pending[planned.digest]
            if outcome.status in SETTLED:
                measured.setdefault((planned.scenario, planned.method), []).append(outcome.wall_s)
            on_progress(progress((planned, outcome)))


def default_jobs() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
