"""What a device must not lose between two rounds, as one value that is committed as one file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgspec
import numpy as np

from edge_client.training import RoundOutcome, RoundWork
from wire.codec import inventory_digest, plan_digest
from wire.digest import content_digest
from wire.manifest import ModelManifest
from wire.messages import InventoryItem, RoundPlan, Summary
from wire.tensors import decode_layer, encode_layer

__all__ = ["Generation", "Traffic", "Upload", "compose_generation", "find_earlier", "goes_back", "prepare_work"]


class Traffic(NamedTuple):
    """Payload bytes that a device has published and received since its first start."""

    bytes_up: int = 0
    bytes_down: int = 0


class Upload(msgspec.Struct, frozen=True):
    """What a device holds ready for the aggregator until it is counted or refused.

    Args:
        summary: The report, with the inventory.
        blobs: Digest -> encoded values of a shared layer.
        part_bytes: The size of their parts, as the plan said.
    """

    summary: Summary
    blobs: dict[str, bytes]
    part_bytes: int

    @property
    def digest(self) -> str:
        """The digest under which it is acknowledged."""
        return inventory_digest(self.summary)


class Generation(msgspec.Struct, frozen=True, kw_only=True):
    """The state after a finished round.

    Args:
        epoch: Of the last plan served.
        round_number: Of the last plan served.
        plan: Its digest.
        model_id: Of the program that trained.
        own: Layer -> values as trained on this device, float32 little-endian. Those of the personal layers are the
            device's personal layers; the others serve the next swap test, or become personal with a later plan.
        residuals: Layer -> what rounding lost in the upload, float32 little-endian; added to the next upload.
        upload: What waits for the aggregator.
        shapes: Layer -> shapes of its parameters, so that a later model can tell whether a layer is its own, too.
    """

    epoch: int
    round_number: int
    plan: str
    model_id: str
    own: dict[str, bytes]
    residuals: dict[str, bytes]
    upload: Upload
    shapes: dict[str, tuple[tuple[int, ...], ...]] = {}

    def layers_that_fit(self, model_id: str, manifest: ModelManifest) -> dict[str, np.ndarray]:
        """Return the layers as trained here that a model can go on with: of another model, those of equal name and shapes."""
        own, names = self.own_layers(), set(manifest.layer_names)
        if self.model_id == model_id:
            return own
        return {name: own[name] for name in own.keys() & names if self.shapes.get(name) == manifest.layer(name).shapes}

    def own_layers(self) -> dict[str, np.ndarray]:
        """Return the layers as trained on this device, shape ``(num_params,)``, float32."""
        return {name: np.frombuffer(data, dtype="<f4") for name, data in self.own.items()}


def goes_back(plan: RoundPlan, last: Generation | None) -> bool:
    """Say whether a plan may go on from an earlier generation than the last: its fleet's epoch rose since."""
    return last is not None and plan.epoch > last.epoch and plan.previous != last.plan


def find_earlier(plan: RoundPlan, kept: Iterable[Generation]) -> Generation | None:
    """Return the generation that a plan of a later epoch goes on from: a version that comes back comes back whole.

    That is the one of the round before the plan's, by its digest: what was the device's own when it first met that version. A
    device that sat that round out takes, of those of the same model, the one of the latest round before the plan's.

    Args:
        plan: The plan.
        kept: What the device keeps, the newest first.

    Returns:
        ``None`` if there is none: the last generation goes on, as within an epoch.
    """
    latest = None
    for generation in kept:
        if generation.plan == plan.previous:
            return generation
        is_before = generation.round_number < plan.round_number and generation.model_id == plan.model_id
        if is_before and (latest is None or generation.round_number > latest.round_number):
            latest = generation
    return latest


def prepare_work(
    plan: RoundPlan,
    device_id: str,
    previous: Generation | None,
    own: dict[str, np.ndarray],
    values: Mapping[str, np.ndarray],
) -> RoundWork:
    """Return what a device trains from: its own personal layers, and of the others what the plan names.

    Args:
        plan: The round.
        device_id: The device's name.
        previous: The last generation, ``None`` for a new device.
        own: Layer -> values as trained on this device, for the plan's model; empty for a newcomer.
        values: Digest -> values that were fetched: the averages, and ``initial`` for personal layers that are not own.
    """
    installed = {name: values[digest] for name, digest in plan.shared_layers.items()}
    installed |= {name: own[name] if name in own else values[digest] for name, digest in plan.personal_layers.items()}
    has_finished_previous = previous is not None and previous.plan == plan.previous
    return RoundWork(plan, device_id, installed, own if has_finished_previous else None)


def compose_generation(
    manifest: ModelManifest,
    work: RoundWork,
    outcome: RoundOutcome,
    previous: Generation | None,
    num_examples: int,
    traffic: Traffic,
) -> Generation:
    """Return the generation that a round leaves, with its upload: shared layers alone, encoded as the plan says."""
    plan, settings, digest_of_plan = work.plan, work.plan.training, plan_digest(work.plan)
    if previous is not None and previous.model_id != plan.model_id:
        previous = None  # another model's layers, though names may be the same
    residuals = dict(previous.residuals) if previous else {}
    inventory, blobs = [], {}
    for layer in manifest.layers if settings.num_epochs else ():
        if layer.name not in plan.shared_layers:
            residuals.pop(layer.name, None)
            continue
        values = outcome.own[layer.name]
        if layer.name in residuals:
            values = values + np.frombuffer(residuals[layer.name], dtype="<f4")
        data = encode_layer(layer, values, settings.upload_dtype, settings.upload_codec)
        if settings.upload_dtype != "float32":
            residuals[layer.name] = (values - decode_layer(data, layer)).astype("<f4").tobytes()
        digest = content_digest(data)
        inventory.append(InventoryItem(layer.name, digest, len(data)))
        blobs[digest] = data
    summary = Summary(
        plan=digest_of_plan,
        epoch=plan.epoch,
        round_number=plan.round_number,
        num_examples=num_examples,
        num_steps=outcome.num_steps,
        train_loss=outcome.train_loss,
        layers=outcome.layers,
        before=outcome.before,
        after=outcome.after,
        test=outcome.test,
        swap_gains=outcome.swap_gains,
        inventory=tuple(inventory),
        bytes_up=traffic.bytes_up,
        bytes_down=traffic.bytes_down,
    )
    own = dict(previous.own) if previous else {}
    own |= {name: vector.astype("<f4").tobytes() for name, vector in outcome.own.items()}
    return Generation(
        epoch=plan.epoch,
        round_number=plan.round_number,
        plan=digest_of_plan,
        model_id=plan.model_id,
        own=own,
        residuals=residuals,
        upload=Upload(summary, blobs, settings.part_bytes),
        shapes={layer.name: layer.shapes for layer in manifest.layers},
    )
