"""How long a study will still take, from what its own cells took: no guess where nothing was measured."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

__all__ = ["Remaining", "in_words", "remaining_time"]

Kind = tuple[str, str]
"""Scenario and method."""

MINUTE, HOUR = 60, 3600


class Remaining(NamedTuple):
    """What is left to do.

    Args:
        seconds: Of the cells whose duration can be told, shared out over the processes.
        num_unknown: Cells of scenarios of which none was measured yet.
    """

    seconds: float
    num_unknown: int


def remaining_time(
    pending: Iterable[Kind], measured: Mapping[Kind, Sequence[float]], num_processes: int = 1
) -> Remaining:
    """Return how long the pending cells take.

    Args:
        pending: Scenario and method of each cell that was not run yet.
        measured: Scenario and method -> seconds of each cell that was. A method that was not measured counts as the
            mean of those that were, on the same scenario.
        num_processes: How many cells run at once.

    Example:
        >>> remaining_time([("a", "x"), ("a", "y"), ("b", "x")], {("a", "x"): [2.0, 4.0]}, 2)
        Remaining(seconds=3.0, num_unknown=1)
    """
    by_kind = {kind: statistics.fmean(seconds) for kind, seconds in measured.items() if seconds}
    by_scenario: dict[str, list[float]] = {}
    for (scenario, _), seconds in by_kind.items():
        by_scenario.setdefault(scenario, []).append(seconds)
    total, num_unknown = 0.0, 0
    for kind in pending:
        if kind in by_kind:
            total += by_kind[kind]
        elif kind[0] in by_scenario:
            total += statistics.fmean(by_scenario[kind[0]])
        else:
            num_unknown += 1
    return Remaining(total / num_processes, num_unknown)


def in_words(remaining: Remaining) -> str:
    """Return what is left in words.

    Example:
        >>> in_words(Remaining(3.2, 0)), in_words(Remaining(130, 0)), in_words(Remaining(7300, 4))
        ('3 s left', '2 min left', 'more than 2 h 01 min left: 4 cells of other scenarios')
        >>> in_words(Remaining(0, 7))
        'nothing measured yet'
    """
    if remaining.num_unknown and not remaining.seconds:
        return "nothing measured yet"
    seconds = round(remaining.seconds)
    if seconds < MINUTE:
        told = f"{seconds} s"
    elif seconds < HOUR:
        told = f"{round(seconds / MINUTE)} min"
    else:
        told = f"{seconds // HOUR} h {seconds % HOUR // MINUTE:02d} min"
    if remaining.num_unknown:
        return f"more than {told} left: {remaining.num_unknown} cells of other scenarios"
    return f"{told} left"
