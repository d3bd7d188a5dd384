"""What a summary must be to enter a round: checked once, before anything of it is used."""

from __future__ import annotations

import math

import numpy as np

from wire.errors import WireError
from wire.manifest import LayerSpec, ModelManifest
from wire.messages import LayerSummary, Measurement, RoundPlan, Summary
from wire.sketches import CountSketch, personal_width
from wire.tensors import max_encoded_bytes

__all__ = ["check_summary", "max_summary_bytes", "summary_width"]


def summary_width(layer: LayerSpec, plan: RoundPlan) -> int:
    """Return how many values a device sends of this layer's update in this round; 0 for its norm alone."""
    width = plan.sketch_width
    is_personal = layer.name in plan.personal_layers
    if is_personal:
        width = personal_width(layer.num_params, width) if plan.sketch_personal else 0
    return CountSketch(plan.sketch_seed, layer.name, layer.num_params, width, is_personal).num_values if width else 0


def max_summary_bytes(manifest: ModelManifest, sketch_width: int) -> int:
    """Return the most bytes that an encoded summary may take."""
    per_layer = 4 * sketch_width + 4096
    return 64 * 1024 + per_layer * len(manifest.layers)


def check_summary(summary: Summary, plan: RoundPlan, manifest: ModelManifest, *, is_stale: bool = False) -> None:
    """Refuse a summary that does not fit its plan.

    Args:
        summary: What came.
        plan: The one that it answers.
        manifest: Of the model.
        is_stale: There are later plans; a device says nothing but the norm of a layer that has become personal.

    Raises:
        WireError: ``foreign-round``, ``wrong-layers``, ``wrong-shape``, ``oversized`` or ``not-finite``.
    """
    if (summary.epoch, summary.round_number) != (plan.epoch, plan.round_number):
        raise WireError("foreign-round", f"a summary of round {summary.round_number}, expected {plan.round_number}")
    is_measuring = plan.training.num_epochs == 0
    _check_numbers(summary)
    _check_names("layers", sorted(summary.layers), [] if is_measuring else sorted(manifest.layer_names))
    for name, layer in summary.layers.items():
        width = 0 if is_stale and not layer.sketch else summary_width(manifest.layer(name), plan)
        _check_layer(name, layer, width)
    inventory = sorted(item.layer for item in summary.inventory)
    _check_names("inventory", inventory, [] if is_measuring else sorted(plan.shared_layers))
    if len({item.digest for item in summary.inventory}) < len(inventory):
        raise WireError("wrong-layers", "two layers of the inventory have the same digest")
    for item in summary.inventory:
        limit = max_encoded_bytes(manifest.layer(item.layer))
        if item.size_bytes > limit:
            raise WireError("oversized", f"layer {item.layer} of {item.size_bytes} bytes, at most {limit}")
    if not set(summary.swap_gains) <= set(plan.swap_candidates):
        raise WireError("wrong-layers", f"swap gains for {sorted(summary.swap_gains)}, asked {plan.swap_candidates}")


def _check_names(what: str, found: list[str], expected: list[str]) -> None:
    if found != expected:
        raise WireError("wrong-layers", f"{what} {found}, expected {expected}")


def _check_numbers(summary: Summary) -> None:
    for measurement in (summary.before, summary.after, summary.test):
        if measurement is not None:
            _check_measurement(measurement)
    numbers = [summary.train_loss, *summary.swap_gains.values()]
    if not all(math.isfinite(number) for number in numbers):
        raise WireError("not-finite", "a loss or a swap gain is not finite")


def _check_measurement(measurement: Measurement) -> None:
    if not (math.isfinite(measurement.loss) and 0.0 <= measurement.accuracy <= 1.0):
        raise WireError("not-finite", f"a loss of {measurement.loss} with an accuracy of {measurement.accuracy}")


def _check_layer(name: str, layer: LayerSummary, width: int) -> None:
    if len(layer.sketch) != 4 * width:
        raise WireError("wrong-shape", f"a sketch of layer {name} of {len(layer.sketch)} bytes, expected {4 * width}")
    if not (math.isfinite(layer.norm) and np.isfinite(np.frombuffer(layer.sketch, dtype="<f4")).all()):
        raise WireError("not-finite", f"the summary of layer {name} holds a value that is not finite")
