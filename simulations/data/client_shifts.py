"""What the clients of a scenario do to the examples that they are dealt: each its own labels, turns, tiles or gains."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from simulations.data.pools import Draw
from simulations.data.shifts import invert, permute_tiles, quarter_turns, scale_channels

__all__ = ["group_labels", "group_turns", "own_labels", "own_sensor", "own_tiles"]

Change = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]

TILE_PIXELS = 4
SATELLITE_BANDS = 4
GAINS = (0.5, 1.5)
OFFSETS = (-1.0, 1.0)


def own_labels(draw: Draw) -> Change:
    """Return a renaming of the classes that is this client's alone."""
    names = draw.rng.permutation(draw.groups.shape[1])
    return lambda x, y: (x, names[y])


def group_labels(draw: Draw) -> Change:
    """Return a renaming of the classes that every fourth client shares."""
    names = draw.groups[draw.client % len(draw.groups)]
    return lambda x, y: (x, names[y])


def group_turns(draw: Draw) -> Change:
    """Return a turn of square images by 0, 90, 180 or 270 degrees, shared by every fourth client."""
    return lambda x, y: (quarter_turns(x, draw.client % 4), y)


def own_tiles(draw: Draw) -> Change:
    """Return an order of the pixels of each 2x2 tile, and, for half of the clients, an inversion of brightness."""
    is_inverted = draw.rng.random() < 0.5  # noqa: PLR2004 - half of the clients
    order = draw.rng.permutation(TILE_PIXELS)
    return lambda x, y: (permute_tiles(invert(x) if is_inverted else x, order), y)


def own_sensor(draw: Draw) -> Change:
    """Return a gain of 0.5 to 1.5 and an offset of -1 to 1 for each of a satellite's four bands."""
    gain, offset = draw.rng.uniform(*GAINS, SATELLITE_BANDS), draw.rng.uniform(*OFFSETS, SATELLITE_BANDS)
    return lambda x, y: (scale_channels(x, gain, offset), y)
