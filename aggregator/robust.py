"""Averages that a few hostile or broken devices cannot move far.

Norm clipping    an update longer than ``clip_norm`` times the cohort's median is scaled down to that length (Z. Sun et al., "Can
                 You Really Backdoor Federated Learning?", 2019, with the cohort's own median as the bound)
median           of each parameter, all devices alike (D. Yin et al., "Byzantine-Robust Distributed Learning", ICML 2018)
trimmed mean     of each parameter, without the share of devices at each end (the same)
multi-Krum       the mean of the devices whose updates lie closest to their neighbors' (P. Blanchard et al., "Machine Learning
                 with Adversaries", NeurIPS 2017)

Rows are read from the round log a block of columns at a time. All run over the devices in the order of their names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from aggregator.averaging import Row, weighted_average
from aggregator.config import AveragingSettings

__all__ = ["average_round", "krum_choice", "update_norms"]

ASSUMED_SHARE = 0.2
"""Of the devices, that may be hostile where the configuration does not say how many."""

BLOCK_VALUES = 1 << 22
"""The most values of a cohort that are in memory at one time: 16 MB of float32."""

Layers = Mapping[str, Mapping[str, Row]]
"""Layer -> device -> its values."""


def average_round(
    settings: AveragingSettings, rows: Layers, start_of: Callable[[str], np.ndarray], weights: Mapping[str, float]
) -> dict[str, np.ndarray]:
    """Return layer -> average, shape ``(num_params,)``, float32; a layer of which multi-Krum keeps no device is left out.

    Args:
        settings: How.
        rows: Layer -> device -> its values, shape ``(num_params,)``, float32, finite. Where a device is missing it sent no
            update of that layer: that counts as none where whole updates are compared.
        start_of: From a layer to what the devices began with, float32, shape ``(num_params,)``; asked where updates count.
        weights: Device -> its weight; a median and a trimmed mean take all devices alike, for a weight is only claimed.
    """
    share = ASSUMED_SHARE if settings.malicious_share is None else settings.malicious_share
    compares_updates = settings.clip_norm is not None or settings.method == "multi-krum"
    start = {name: start_of(name) for name in rows} if compares_updates else {}
    if settings.clip_norm is not None and rows:
        rows = _clip(rows, start, settings.clip_norm)
    match settings.method:
        case "mean":
            return {name: _mean(of_layer, weights) for name, of_layer in rows.items()}
        case "multi-krum":
            chosen = krum_choice(rows, start, share)
            kept = {name: {it: of_layer[it] for it in chosen if it in of_layer} for name, of_layer in rows.items()}
            return {name: _mean(of_layer, weights) for name, of_layer in kept.items() if of_layer}
        case "median":
            return {name: _by_column(of_layer, 0.5) for name, of_layer in rows.items()}
        case "trimmed-mean":
            return {name: _by_column(of_layer, share) for name, of_layer in rows.items()}


def update_norms(rows: Layers, start: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Return device -> length of its whole update, ``values - start`` over all layers."""
    totals = dict.fromkeys(_devices(rows), 0.0)
    for update in _updates(rows, start):
        for device_id, values in zip(totals, update, strict=True):
            totals[device_id] += float(values @ values)
    return {device_id: total**0.5 for device_id, total in totals.items()}


def krum_choice(rows: Layers, start: Mapping[str, np.ndarray], malicious_share: float) -> list[str]:
    """Return the devices that multi-Krum keeps, in the order of their names.

    Of ``n`` devices ``f = floor(malicious_share * n)`` may be malicious. Each scores the sum of its squared distances to its
    ``n - f - 2`` nearest; the ``n - f`` with the lowest scores stay. Fewer than four devices all stay.
    """
    devices = _devices(rows)
    count = len(devices)
    num_malicious = int(malicious_share * count)
    if count < 4 or num_malicious == 0:  # noqa: PLR2004 - nobody has two neighbors beside a malicious one
        return devices
    gram = np.zeros((count, count))
    for update in _updates(rows, start):
        gram += update @ update.T
    lengths = np.diag(gram)
    distances = np.sort(lengths[:, None] + lengths[None, :] - 2 * gram, axis=1)
    scores = distances[:, 1 : count - num_malicious - 1].sum(1)  # the first is a device's distance to itself
    best = np.argsort(scores, kind="stable")[: count - num_malicious]
    return [devices[index] for index in sorted(best.tolist())]


def _mean(rows: Mapping[str, Row], weights: Mapping[str, float]) -> np.ndarray:
    return weighted_average(rows, {device_id: weights[device_id] for device_id in rows})


class _ClippedRow:
    """A row whose update is scaled down."""

    def __init__(self, row: Row, start: np.ndarray, factor: float) -> None:
        self._row = row
        self._start = start
        self._factor = factor
        self.shape = row.shape

    def __getitem__(self, block: slice, /) -> np.ndarray:
        start = self._start[block].astype(np.float64)
        clipped: np.ndarray = (start + self._factor * (self._row[block] - start)).astype(np.float32)
        return clipped


def _clip(rows: Layers, start: Mapping[str, np.ndarray], clip_norm: float) -> Layers:
    norms = update_norms(rows, start)
    bound = clip_norm * float(np.median(list(norms.values())))
    return {
        name: {
            device_id: row if norms[device_id] <= bound else _ClippedRow(row, start[name], bound / norms[device_id])
            for device_id, row in of_layer.items()
        }
        for name, of_layer in rows.items()
    }


def _by_column(rows: Mapping[str, Row], trimmed_share: float) -> np.ndarray:
    """Return the mean of each column without this share of the devices at each end; half of them is the median."""
    count = len(rows)
    cut = min(int(trimmed_share * count), (count - 1) // 2)
    (num_params,) = next(iter(rows.values())).shape
    average = np.empty(num_params, dtype=np.float32)
    for block in _blocks(num_params, count):
        columns = np.sort(np.stack([rows[device_id][block] for device_id in sorted(rows)]), axis=0)
        average[block] = columns[cut : count - cut].mean(0, dtype=np.float64)
    return average


def _updates(rows: Layers, start: Mapping[str, np.ndarray]) -> Iterator[np.ndarray]:
    """Yield the devices' updates, a block of columns at a time: shape ``(devices, block)``, float64."""
    devices = _devices(rows)
    for name, of_layer in rows.items():
        for block in _blocks(start[name].size, 2 * len(devices)):
            began = start[name][block].astype(np.float64)
            yield np.stack([of_layer[it][block] - began if it in of_layer else np.zeros_like(began) for it in devices])


def _devices(rows: Layers) -> list[str]:
    return sorted({device_id for of_layer in rows.values() for device_id in of_layer})


def _blocks(num_params: int, count: int) -> Iterator[slice]:
    step = max(BLOCK_VALUES // count, 1)
    for begin in range(0, num_params, step):
        yield slice(begin, min(begin + step, num_params))
