"""Means with what they may be off by, over seeds; differences pair by pair."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

from simulations.demo.results import Estimate

__all__ = ["estimate", "paired_difference", "share_below", "worst_decile"]


def estimate(values: Sequence[float]) -> Estimate | None:
    """Return the mean and its standard error; None of nothing.

    Example:
        >>> estimate([1.0, 3.0])
        Estimate(mean=2.0, standard_error=1.0)
        >>> estimate([1.0])
        Estimate(mean=1.0, standard_error=None)
    """
    if not values:
        return None
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    return Estimate(statistics.fmean(values), error)


def paired_difference(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Estimate | None:
    """Return the mean of ours minus theirs over what both have, with the standard error of the pairs' differences.

    Example:
        >>> paired_difference({0: 0.5, 1: 0.75, 2: 0.9}, {0: 0.25, 1: 0.5})
        Estimate(mean=0.25, standard_error=0.0)
    """
    return estimate([ours[key] - theirs[key] for key in ours if key in theirs])


def worst_decile(values: Sequence[float]) -> float:
    """Return the mean of the lowest tenth of the values, of one at least.

    Example:
        >>> worst_decile([0.9, 0.1, 0.3] + 17 * [1.0])
        0.2
    """
    return statistics.fmean(sorted(values)[: max(1, len(values) // 10)])


def share_below(ours: Mapping[str, float], theirs: Mapping[str, float]) -> float | None:
    """Return the share of clients with less than they have elsewhere; a tie is not less; None without a common client.

    Example:
        >>> share_below({"a": 0.5, "b": 0.7}, {"a": 0.6, "b": 0.7})
        0.5
    """
    below = [value < theirs[client] for client, value in ours.items() if client in theirs]
    return statistics.fmean(below) if below else None
