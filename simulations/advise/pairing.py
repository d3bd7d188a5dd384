"""Two methods on the same devices and seeds: how far apart they are, and by how much that may be off."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from typing import NamedTuple

__all__ = ["Difference", "mean_by_device", "paired_over_devices"]


class Difference(NamedTuple):
    """A mean of paired differences of accuracy, in ``[-1, 1]``.

    Args:
        mean: Ours minus theirs, over devices and seeds.
        standard_error: Of the mean, for other devices and other seeds.
    """

    mean: float
    standard_error: float

    def is_clear(self, num_errors: float, smallest: float) -> bool:
        """Say whether it is above 0 by more than chance and by enough to matter."""
        return self.mean >= smallest and self.mean > num_errors * self.standard_error


def paired_over_devices(
    ours: Mapping[int, Mapping[str, float]], theirs: Mapping[int, Mapping[str, float]]
) -> Difference | None:
    """Return how far ours is above theirs, pair by pair.

    Devices differ, and seeds differ, so both count: ``se^2 = var(devices) / num_devices + var(seeds) / num_seeds``, where
    a device's difference is its mean over seeds and a seed's its mean over devices. What the two share counts twice, so
    that the error is rather too large than too small. One seed says nothing about seeds: its part is missing then.

    Args:
        ours: Seed -> device -> accuracy.
        theirs: The same of another method.

    Returns:
        None where fewer than two devices have both.

    Example:
        >>> paired_over_devices({0: {"a": 0.75, "b": 0.5}}, {0: {"a": 0.5, "b": 0.25}})
        Difference(mean=0.25, standard_error=0.0)
    """
    pairs = {
        seed: {device: value - theirs[seed][device] for device, value in by.items() if device in theirs[seed]}
        for seed, by in ours.items()
        if seed in theirs
    }
    by_device = mean_by_device(pairs)
    by_seed = [statistics.fmean(by.values()) for by in pairs.values() if by]
    if len(by_device) < 2:  # noqa: PLR2004 - one has no spread
        return None
    variance = statistics.variance(by_device.values()) / len(by_device)
    if len(by_seed) > 1:
        variance += statistics.variance(by_seed) / len(by_seed)
    return Difference(statistics.fmean(by_seed), math.sqrt(variance))


def mean_by_device(values: Mapping[int, Mapping[str, float]]) -> dict[str, float]:
    """Return device -> its mean over seeds, by name.

    Example:
        >>> mean_by_device({0: {"a": 0.25}, 1: {"a": 0.75, "b": 1.0}})
        {'a': 0.5, 'b': 1.0}
    """
    found: dict[str, list[float]] = {}
    for by in values.values():
        for device, value in by.items():
            found.setdefault(device, []).append(value)
    return {device: statistics.fmean(found[device]) for device in sorted(found)}
