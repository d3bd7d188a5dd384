"""A round on the device: swap test, local training, measurements and summaries. All computation, no I/O.

The order is the protocol's ("A round", steps 3 and 4): with the averages installed, the device first measures them,
then swaps its own layers of the previous round in, one at a time, then trains.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from edge_client.dataset import Dataset, Split
from edge_client.masks import draw_masks
from edge_client.optimizer import make_optimizer
from edge_client.program import TrainingProgram
from edge_client.scoring import Score
from wire.errors import WireError
from wire.manifest import LayerSpec, ModelManifest
from wire.messages import LayerSummary, Measurement, RoundPlan
from wire.random import key_from_label, random_permutation
from wire.sketches import CountSketch, personal_width
from wire.tensors import flatten_layer, unflatten_layer

__all__ = [
    "EVALUATION_BATCH",
    "RoundOutcome",
    "RoundWork",
    "check_plan",
    "measure",
    "run_round",
    "summarize_update",
]

EVALUATION_BATCH = 128


class RoundWork(NamedTuple):
    """What a device needs for a round.

    Args:
        plan: The round.
        device_id: Decides the order of the batches.
        installed: Layer -> values, float32, shape ``(num_params,)``: the averages, and its own personal layers.
        own: All its layers as trained in the previous round, if it finished that one; the swap test needs them.
    """

    plan: RoundPlan
    device_id: str
    installed: dict[str, np.ndarray]
    own: dict[str, np.ndarray] | None


class RoundOutcome(NamedTuple):
    """What a round gave.

    Args:
        own: Layer -> values after training, float32, shape ``(num_params,)``; empty in a measuring round.
        layers: Layer -> summary of its update; empty in a measuring round.
        num_steps: Optimizer steps.
        train_loss: Mean loss over the steps.
        before: Validation with what was installed.
        after: Validation after training.
        test: Test split with what was installed, if there is one.
        swap_gains: Candidate -> gain in nats.
    """

    own: dict[str, np.ndarray]
    layers: dict[str, LayerSummary]
    num_steps: int
    train_loss: float
    before: Measurement
    after: Measurement
    test: Measurement | None
    swap_gains: dict[str, float]

    @property
    def is_finite(self) -> bool:
        """Say whether training stayed within the numbers; if it diverged, nothing of it may be kept or sent."""
        return bool(np.isfinite(self.train_loss)) and all(np.isfinite(vector).all() for vector in self.own.values())


def check_plan(plan: RoundPlan, manifest: ModelManifest) -> None:
    """Refuse a plan that does not fit the model.

    Raises:
        WireError: ``wrong-layers``.
    """
    named = sorted([*plan.shared_layers, *plan.personal_layers])
    if named != sorted(manifest.layer_names):
        raise WireError("wrong-layers", f"plan {plan.round_number} names {named}, the model has {manifest.layer_names}")
    unknown = set(plan.training.trained_layers or ()) - set(manifest.layer_names)
    if unknown:
        raise WireError(
            "wrong-layers", f"plan {plan.round_number} would train {sorted(unknown)}, which the model lacks"
        )
    strangers = set(plan.swap_candidates) - set(plan.shared_layers)
    if strangers:
        raise WireError(
            "wrong-layers", f"plan {plan.round_number} would swap {sorted(strangers)}, which are not shared"
        )


def run_round(program: TrainingProgram, data: Dataset, work: RoundWork) -> RoundOutcome:
    """Measure what was installed, test the swaps, train, and summarize the updates.

    The same work and data give the same bits, so a device that is killed on the way starts again and loses nothing.

    Raises:
        ProgramError: If the runtime refuses a batch.
    """
    manifest, plan = program.manifest, work.plan
    installed = _params(manifest, work.installed)
    before = measure(program, installed, data.validation)
    test = None if data.test is None else measure(program, installed, data.test)
    gains: dict[str, float] = {}
    if work.own is not None and plan.swap_candidates:
        gains = _swap_gains(program, data.validation, work, work.own)
    if plan.training.num_epochs == 0:
        return RoundOutcome({}, {}, 0, 0.0, before, before, test, gains)
    params = {name: values.copy() for name, values in installed.items()}
    losses = _train(program, data.train, params, work)
    own = {layer.name: flatten_layer(layer, params) for layer in manifest.layers}
    after = measure(program, params, data.validation)
    layers = {
        layer.name: summarize_update(plan, layer, own[layer.name] - work.installed[layer.name])
        for layer in manifest.layers
    }
    return RoundOutcome(own, layers, len(losses), float(np.mean(losses)), before, after, test, gains)


def measure(program: TrainingProgram, params: Mapping[str, np.ndarray], split: Split) -> Measurement:
    """Return the mean loss and the accuracy of a model on a split."""
    score = Score(program.manifest, split.targets)
    for start in range(0, len(split.targets), EVALUATION_BATCH):
        rows = slice(start, start + EVALUATION_BATCH)
        score.add(program.predict(params, split.inputs[rows]), split.targets[rows])
    return score.measurement()


def summarize_update(plan: RoundPlan, layer: LayerSpec, update: np.ndarray) -> LayerSummary:
    """Return what the plan allows to be said of a layer's update.

    A shared layer's sketch, or the update itself where that is no larger; of a personal layer its norm alone, unless
    the plan declares that the selector needs its sketch: then one of at most an eighth of its size, never the update.
    """
    norm = float(np.linalg.norm(update.astype(np.float64)))
    width = plan.sketch_width
    is_personal = layer.name in plan.personal_layers
    if is_personal:
        width = personal_width(layer.num_params, plan.sketch_width) if plan.sketch_personal else 0
    if width == 0:
        return LayerSummary(norm)
    sketch = CountSketch(plan.sketch_seed, layer.name, layer.num_params, width, is_personal).summarize(update)
    return LayerSummary(norm, sketch.astype("<f4").tobytes())


def _swap_gains(
    program: TrainingProgram, validation: Split, work: RoundWork, own: dict[str, np.ndarray]
) -> dict[str, float]:
    """Return, for each candidate, the loss with the average minus the loss with the device's own layer."""
    manifest = program.manifest
    personal = {name: own[name] for name in work.plan.personal_layers}
    base_layers = {**work.installed, **personal}
    base = measure(program, _params(manifest, base_layers), validation).loss
    gains = {}
    for name in work.plan.swap_candidates:
        swapped = _params(manifest, {**base_layers, name: own[name]})
        gains[name] = base - measure(program, swapped, validation).loss
    return gains


def _train(program: TrainingProgram, train: Split, params: dict[str, np.ndarray], work: RoundWork) -> list[float]:
    """Train ``params`` in place; return the loss of every step."""
    plan, settings = work.plan, work.plan.training
    optimizer = make_optimizer(settings, _params(program.manifest, work.installed))
    trained = settings.trained_layers or program.manifest.layer_names
    moved = {it.name for layer in program.manifest.layers if layer.name in trained for it in layer.parameters}
    losses = []
    for epoch in range(settings.num_epochs):
        label = f"batches/{settings.seed}/{work.device_id}/{plan.epoch}/{plan.round_number}/{epoch}"
        order = random_permutation(key_from_label(label), len(train.targets))
        for start in range(0, len(order), settings.batch_size):
            batch = order[start : start + settings.batch_size]
            masks = draw_masks(program.manifest, f"{label}/{start}", len(batch))
            step = program.train_step(params, train.inputs[batch], train.targets[batch], masks)
            optimizer.update(params, {name: it for name, it in step.gradients.items() if name in moved})
            params.update(step.statistics)
            losses.append(step.loss)
    return losses


def _params(manifest: ModelManifest, vectors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    params: dict[str, np.ndarray] = {}
    for layer in manifest.layers:
        params |= unflatten_layer(layer, vectors[layer.name])
    return params
