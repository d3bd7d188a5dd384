"""Devices that lie so that a layer becomes personal: what a rule that chooses layers has to bear, and what doubt is worth.

The data of twenty devices are alike, so nothing should be personal. Four upload what they trained, and lie about the last layer:

==============  =====================================================================================================
``gains``       Their own one is 10 nats better than the average.
``sketches``    Their update of it is the opposite of what the others' was, as exactly as a sketch can say it.
``both``        Both.
==============  =====================================================================================================
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import msgspec
import numpy as np

from aggregator.config import AveragingSettings, SelectorSettings
from edge_client.training import RoundOutcome, RoundWork
from simulations.faults.hostile_fleet import honest_accuracy, hostile_names, make_fleet, mean_and_error

__all__ = ["LIES", "RULES", "LieRow", "run_lie"]

LIED_ABOUT = "head"
NUM_DEVICES = 20
INFLATED_GAIN = 10.0

Lie = Literal["none", "gains", "sketches", "both"]
LIES: tuple[Lie, ...] = ("none", "gains", "sketches", "both")

RULES: dict[str, tuple[str, dict[str, Any]]] = {
    "fedlag-swap": ("fedlag-swap", {}),
    "fedlag-swap, malicious_share = 0.2": ("fedlag-swap", {"malicious_share": 0.2}),
    "fedlag-paper": ("fedlag-paper", {"num_personal": 1}),
    "fedlag-paper, malicious_share = 0.2": ("fedlag-paper", {"num_personal": 1, "malicious_share": 0.2}),
}


class LieRow(msgspec.Struct, frozen=True, kw_only=True):
    """One rule against one lie.

    Args:
        rule: One of ``RULES``.
        lie: One of ``LIES``.
        chosen: The share of seeds at whose end the layer is personal, in ``[0, 1]``.
        accuracy: Mean test accuracy of the honest devices at the end, in ``[0, 1]``, over the seeds.
        standard_error: Of that mean over the seeds, if there are several.
    """

    rule: str
    lie: Lie
    chosen: float
    accuracy: float
    standard_error: float | None


def run_lie(rule: str, lie: Lie, seeds: int) -> LieRow:
    """Run a fleet for each seed, from 0, and return what its honest devices came to."""
    name, options = RULES[rule]
    accuracies, chosen = [], []
    for seed in range(seeds):
        selector = SelectorSettings(name=name, options=options)
        fleet = make_fleet("alike", selector, AveragingSettings(), np.random.default_rng([seed, 17]), NUM_DEVICES)
        for device_id in hostile_names(fleet):
            fleet.devices[device_id].tamper = partial(_lie, lie)
        accuracies.append(honest_accuracy(fleet))
        chosen.append(LIED_ABOUT in fleet.aggregator.state.decision.personal_layers)
    accuracy, error = mean_and_error(accuracies)
    return LieRow(rule=rule, lie=lie, chosen=float(np.mean(chosen)), accuracy=accuracy, standard_error=error)


def _lie(lie: Lie, work: RoundWork, outcome: RoundOutcome) -> RoundOutcome:
    if lie in ("gains", "both") and LIED_ABOUT in work.plan.swap_candidates:
        outcome = outcome._replace(swap_gains={**outcome.swap_gains, LIED_ABOUT: INFLATED_GAIN})
    told = outcome.layers.get(LIED_ABOUT)
    if lie in ("sketches", "both") and told is not None:
        sketch = -np.frombuffer(told.sketch, dtype="<f4")
        opposite = msgspec.structs.replace(told, sketch=sketch.astype("<f4").tobytes())
        outcome = outcome._replace(layers={**outcome.layers, LIED_ABOUT: opposite})
    return outcome
