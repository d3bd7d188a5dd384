"""What a program and all that it started cost: CPU time and memory, read from Linux's /proc.

A program may let its processes go (Ray's servers outlive their parent), and may overwrite the environment that /proc
shows (Ray's workers do, for their titles). So those belong to a run that either carry the run's mark in their environment
or descend from one that does. A process's own time counts as long as it lives, and as its parent's afterwards: the four
times of /proc/PID/stat, summed over the living, count each second once.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["MARK", "PeakMemory", "cpu_s", "memory_mb", "num_alive", "processes"]

MARK = "FEDLAG_PEER_RUN"
PROC = Path("/proc")
PARENT, TIMES = 1, slice(11, 15)  # fields of /proc/PID/stat after the name: user, system, and both of dead children
SAMPLING_S = 0.5


def read_stats() -> dict[int, list[str]]:
    """Return the fields after the name of /proc/PID/stat, for every process that can be read."""
    stats = {}
    for folder in PROC.iterdir():
        if folder.name.isdigit():
            try:
                stats[int(folder.name)] = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:  # it ended, or is not ours to read
                continue
    return stats


def is_marked(pid: int, mark: str) -> bool:
    """Return whether a process was started with this run's mark."""
    try:
        return f"{MARK}={mark}".encode() in (PROC / str(pid) / "environ").read_bytes().split(b"\0")
    except OSError:
        return False


def with_descendants(marked: set[int], parents: dict[int, int]) -> set[int]:
    """Return the marked processes and all that descend from one.

    Args:
        marked: Processes with the run's mark.
        parents: The parent of every process.

    Returns:
        Numbers of processes, those of ``marked`` among them.

    Example:
        >>> sorted(with_descendants({2}, {1: 0, 2: 1, 3: 2, 4: 3, 5: 1}))
        [2, 3, 4]
    """
    found = set(marked)
    while more := {pid for pid, parent in parents.items() if parent in found and pid not in found}:
        found |= more
    return found


def processes(mark: str) -> dict[int, list[str]]:
    """Return the fields of /proc/PID/stat of all that belong to a run."""
    stats = read_stats()
    marked = {pid for pid in stats if is_marked(pid, mark)}
    ours = with_descendants(marked, {pid: int(fields[PARENT]) for pid, fields in stats.items()})
    return {pid: stats[pid] for pid in ours if pid in stats}


def num_alive(mark: str) -> int:
    """Return how many processes of a run have not ended."""
    return sum(fields[0] != "Z" for fields in processes(mark).values())


def cpu_s(mark: str) -> float:
    """Return the CPU time that a run has used so far, of all its processes, in seconds to about 0.01."""
    ticks = sum(int(time) for fields in processes(mark).values() for time in fields[TIMES])
    return ticks / os.sysconf("SC_CLK_TCK")


def memory_mb(mark: str) -> float:
    """Return the memory that a run holds now, in MB of 10^6 bytes; pages that processes share count once."""
    pss_kib = 0
    for pid in processes(mark):
        try:
            lines = (PROC / str(pid) / "smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        pss_kib += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return pss_kib * 1024 / 1e6


class PeakMemory:
    """The most memory that a run was seen to hold, looked at twice a second.

    Args:
        mark: The run's.
    """

    def __init__(self, mark: str) -> None:
        """Prepare; ``watch`` looks."""
        self.mark = mark
        self.peak_mb = 0.0
        self._ended = threading.Event()

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Look while the body runs."""
        thread = threading.Thread(target=self._look, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join()

    def _look(self) -> None:
        while not self._ended.wait(SAMPLING_S):
            self.peak_mb = max(self.peak_mb, memory_mb(self.mark))
