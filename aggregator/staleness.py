"""Updates that began at an older version, added to the current one.

Buffered rounds (J. Nguyen et al., "Federated Learning with Buffered Asynchronous Aggregation", AISTATS 2022,
arXiv:2106.06639). Of a layer whose current values are ``x``, a device that began at ``start`` and came to ``values`` counts as::

    x + (values - start) / sqrt(1 + staleness)

where the staleness is the number of versions since the one that it began at. These rows are averaged as any others
(``aggregator.robust``). An update that is not stale counts with the device's values as they are, so a synchronous round is the
case in which none is: the same bits.

Differs from the paper: devices weigh by their numbers of examples, the server takes whole steps, and who is asked gets the plan of
the current version once its last upload was counted or refused, not as soon as a place is free.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from aggregator.averaging import Row
from aggregator.config import AveragingSettings
from aggregator.robust import average_round
from wire.messages import RoundPlan, Summary

__all__ = ["Origin", "Origins", "average_uploads", "origins_of", "staleness_factor"]


class Origin(NamedTuple):
    """Where a device's update of one layer began.

    Args:
        start: Digest of the values that it began with.
        staleness: Versions since then, at least 0.
    """

    start: str
    staleness: int


Origins = Mapping[str, Mapping[str, Origin]]
"""Layer -> device -> where its update began, of those devices that uploaded the layer."""


def staleness_factor(staleness: int) -> float:
    """Return by how much an update counts, in ``(0, 1]``; 1 if it is not stale.

    Example:
        >>> [staleness_factor(staleness) for staleness in (0, 3, 8)]
        [1.0, 0.5, 0.3333333333333333]
    """
    return 1.0 / math.sqrt(1.0 + staleness)


def origins_of(plan: RoundPlan, plans: Mapping[str, RoundPlan], stored: Mapping[str, Summary]) -> Origins:
    """Return what a round averages: each layer that its plan shares, of the devices whose plans shared it, too.

    Args:
        plan: The round's.
        plans: Digest -> plan that may be answered in it.
        stored: Device -> summary of its upload.

    Returns:
        Layers without a device are left out; all are in a measuring round.
    """
    if plan.training.num_epochs == 0:
        return {}
    found = {
        layer: {
            device_id: Origin(plans[it.plan].shared_layers[layer], plan.round_number - it.round_number)
            for device_id, it in stored.items()
            if layer in plans[it.plan].shared_layers
        }
        for layer in plan.shared_layers
    }
    return {layer: of_layer for layer, of_layer in found.items() if of_layer}


def average_uploads(
    settings: AveragingSettings,
    origins: Origins,
    weights: Mapping[str, float],
    current: Mapping[str, str],
    rows_of: Callable[[str, tuple[str, ...]], Mapping[str, Row]],
    vector_of: Callable[[str, str], np.ndarray],
) -> dict[str, np.ndarray]:
    """Return layer -> its next values, shape ``(num_params,)``, float32.

    Args:
        settings: How averages are made.
        origins: What is averaged.
        weights: Device -> its weight, for example its number of examples.
        current: Layer -> digest of its current values.
        rows_of: From a layer and devices to what they uploaded, float32, finite, shape ``(num_params,)`` each.
        vector_of: From a layer and a digest to those values of it, float32, shape ``(num_params,)``; asked where needed.
    """
    vector = functools.cache(vector_of)
    rows: dict[str, dict[str, Row]] = {}
    for layer, of_layer in origins.items():
        uploaded = rows_of(layer, tuple(of_layer))
        rows[layer] = {
            device_id: _MovedRow(
                uploaded[device_id], vector(layer, start), vector(layer, current[layer]), staleness_factor(staleness)
            )
            if staleness
            else uploaded[device_id]
            for device_id, (start, staleness) in of_layer.items()
        }
    return average_round(settings, rows, lambda layer: vector(layer, current[layer]), weights)


class _MovedRow:
    """A row whose update is scaled down and added to other values than those that it began with."""

    def __init__(self, row: Row, start: np.ndarray, current: np.ndarray, factor: float) -> None:
        self._row = row
        self._start = start
        self._current = current
        self._factor = factor
        self.shape = row.shape

    def __getitem__(self, block: slice, /) -> np.ndarray:
        update = self._row[block].astype(np.float64) - self._start[block]
        moved: np.ndarray = (self._current[block] + self._factor * update).astype(np.float32)
        return moved
