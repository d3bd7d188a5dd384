"""Processes that run cells, one at a time each; one that dies takes no cell with it but its own.

Only this process writes results, so that a cell is in the file whole or not at all. A crew is stopped at once: what its
processes were at is lost, and run again next time.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnContext, SpawnProcess

import torch

from simulations.rounds.workers import one_thread
from simulations.study.cell import PlannedCell
from simulations.study.outcome import CellOutcome
from simulations.study.running import run_cell

__all__ = ["run_cells"]

PATIENCE_S = 5.0


@dataclass
class _Member:
    """A process, the line to it, and what it is at."""

    process: SpawnProcess
    line: Connection
    cell: PlannedCell | None = None


def run_cells(
    cells: Sequence[PlannedCell], num_processes: int
) -> Generator[tuple[PlannedCell, CellOutcome], None, None]:
    """Run cells; yield each with its outcome as soon as it has one. Closing the iterator stops what is under way.

    Args:
        cells: What to run, in this order.
        num_processes: How many at once; 1 runs them in this process.
    """
    if num_processes == 1:
        for cell in cells:
            with one_thread():
                outcome = run_cell(cell)
            yield cell, outcome
        return
    context = multiprocessing.get_context("spawn")
    waiting = list(reversed(cells))
    crew: list[_Member] = []
    try:
        while waiting or any(member.cell for member in crew):
            crew += [_hire(context) for _ in range(min(num_processes - len(crew), len(waiting)))]
            for member in crew:
                _keep_busy(member, waiting)
            ready = wait([member.line for member in crew if member.cell])
            for member in [member for member in crew if member.line in ready]:
                planned, found = member.cell, _hear(member)
                member.cell = None
                if found is None:
                    crew.remove(member)
                if planned is not None:
                    yield planned, found or _lost(member, planned)
    finally:
        for member in crew:
            _dismiss(member)


def _hire(context: SpawnContext) -> _Member:
    here, there = context.Pipe()
    process = context.Process(target=_work, args=(there,), name="fedlag-cells")
    process.start()
    there.close()
    return _Member(process, here)


def _keep_busy(member: _Member, waiting: list[PlannedCell]) -> None:
    """Hand the next cell to a process without one; if it has died meanwhile, that shows when it is listened to."""
    if member.cell is None and waiting:
        member.cell = waiting.pop()
        with suppress(OSError):
            member.line.send(member.cell)


def _hear(member: _Member) -> CellOutcome | None:
    """Return what a process found; None if it has died."""
    try:
        found: CellOutcome = member.line.recv()
    except (EOFError, OSError):
        return None
    return found


def _lost(member: _Member, cell: PlannedCell) -> CellOutcome:
    """Return the outcome of a cell whose process has died."""
    _dismiss(member)
    code = member.process.exitcode
    how = f"was killed by {signal.Signals(-code).name}" if code is not None and code < 0 else f"ended with code {code}"
    return CellOutcome(
        digest=cell.digest,
        status="failed",
        reason=f"its process {how}; if memory ran out, use fewer --jobs",
    )


def _dismiss(member: _Member) -> None:
    member.line.close()
    if member.cell is not None:
        member.process.terminate()
    member.process.join(PATIENCE_S)
    if member.process.is_alive():
        member.process.kill()
        member.process.join()


def _work(line: Connection) -> None:
    """Run cells until the line is closed. Ctrl+C is the parent's business; without a parent nothing is."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    while True:
        try:
            cell = line.recv()
            line.send(run_cell(cell))
        except (EOFError, OSError):
            return


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
