"""The messages of protocol version 1: frozen Structs, sent as MessagePack maps.

A reader ignores fields that it does not know, refuses a ``version`` that it does not know, and checks sizes before it
decodes. Digests are sha256 in hexadecimal. Durations are in seconds; there are no wall-clock times.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from wire.errors import RefusalReason
from wire.tensors import Codec, Dtype

__all__ = [
    "PROTOCOL_VERSION",
    "Acknowledgement",
    "Count",
    "DeviceId",
    "DeviceStatus",
    "Digest",
    "InventoryItem",
    "Invitation",
    "LayerName",
    "LayerSummary",
    "Measurement",
    "Message",
    "OptimizerName",
    "Part",
    "Positive",
    "RoundPlan",
    "ServerStatus",
    "Summary",
    "TrainingSettings",
    "WantedPart",
]

PROTOCOL_VERSION = 1
MAX_PART_BYTES = 1024 * 1024

DeviceId = Annotated[str, Meta(pattern=r"^[a-z0-9-]{1,64}\Z")]
Digest = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
LayerName = Annotated[str, Meta(min_length=1, max_length=200)]
Count = Annotated[int, Meta(ge=0, le=2**53)]
Positive = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Seconds = Annotated[float, Meta(gt=0, le=30 * 24 * 3600)]
Text = Annotated[str, Meta(max_length=500)]
OptimizerName = Literal["sgd", "adam", "adamw"]


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """What every message carries: the version of the protocol."""

    version: Positive = PROTOCOL_VERSION


class ServerStatus(Message, frozen=True, kw_only=True):
    """The aggregator's birth and last will.

    Args:
        state: ``online``, ``finished`` (no round will follow) or ``lost``.
        session: Rises with every start of the aggregator; a will of an older session says nothing.
        protocols: The versions that it understands.
    """

    state: Literal["online", "finished", "lost"]
    session: Count
    protocols: tuple[Positive, ...] = (PROTOCOL_VERSION,)


class DeviceStatus(Message, frozen=True, kw_only=True):
    """A device's birth and last will.

    Args:
        state: ``ready`` to be asked, ``training``, ``waiting`` (``reason`` says why) or ``lost``.
        session: Rises with every start of the device; a will of an older session says nothing.
        reason: Why it waits, or refused a plan, for people.
        codecs: The codecs that it can decode; ``raw`` always.
        runtime: ``onnx`` or ``executorch``.
        epoch: Of the last plan that it has seen; an aggregator that restarts from a backup learns from it.
        round_number: Of the same plan; 0 if it has seen none.
    """

    state: Literal["ready", "training", "waiting", "lost"]
    session: Count
    reason: Text = ""
    codecs: tuple[Codec, ...] = ("raw", "zstd")
    runtime: Text = ""
    epoch: Count = 0
    round_number: Count = 0


class TrainingSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How a device trains in a round.

    Args:
        optimizer: Which one, absent: sgd; what it remembers begins anew in every round.
        learning_rate: Step size, above 0.
        momentum: In ``[0, 1)``; of Adam's it is beta1.
        nesterov: Whether SGD looks ahead along its momentum; it says nothing of Adam.
        weight_decay: How strongly parameters are pulled to 0.
        proximal: How strongly parameters are pulled to what the round began with.
        num_epochs: Passes over the local training data; 0 makes a measuring round: nothing is trained or uploaded.
        batch_size: Examples a step.
        max_gradient_norm: Larger gradients (over all layers together) are scaled down to it.
        trained_layers: Those that training moves, none or absent: all; the others stay as they are.
        seed: Batch orders are drawn from it, the device's name, the round and the epoch.
        upload_dtype: The values' type on the way up; what rounding loses is carried over to the device's next upload.
        upload_codec: The buffer's codec on the way up.
        part_bytes: The size of a part on the way up.
    """

    optimizer: OptimizerName | UnsetType = UNSET
    learning_rate: Annotated[float, Meta(gt=0, le=1e9)] = 0.05
    momentum: Annotated[float, Meta(ge=0, lt=1)] = 0.9
    nesterov: bool | UnsetType = UNSET
    weight_decay: Annotated[float, Meta(ge=0, le=1e3)] | UnsetType = UNSET
    proximal: Annotated[float, Meta(ge=0, le=1e3)] | UnsetType = UNSET
    num_epochs: Annotated[int, Meta(ge=0, le=1000)] = 1
    batch_size: Positive = 10
    max_gradient_norm: Annotated[float, Meta(gt=0, le=1e9)] = 5.0
    trained_layers: tuple[LayerName, ...] | UnsetType = UNSET
    seed: Count = 0
    upload_dtype: Dtype = "float32"
    upload_codec: Codec = "zstd"
    part_bytes: Annotated[int, Meta(ge=1024, le=MAX_PART_BYTES)] = 128 * 1024


class RoundPlan(Message, frozen=True, kw_only=True):
    """What a round is: the same retained message for every device.

    Args:
        fleet: The fleet's name.
        epoch: Rises when the operator restores or rolls back; with ``round_number`` it orders plans.
        round_number: Counts from 1.
        previous: Digest of the plan before, empty for the first.
        model_id: Digest of the model's manifest.
        shared_layers: Layer -> digest of its encoded average.
        personal_layers: Layer -> digest of its ``initial`` values, for a device that has none of its own.
        training: How to train.
        sketch_seed: Seed of the layers' sketches.
        sketch_width: Most values of one layer's sketch.
        sketch_personal: The selector has declared that it needs sketches of personal layers, too.
        swap_candidates: Layers that a device swaps, one at a time, if it finished the previous round.
        duration_s: How long the round is open; a hint for the device, the aggregator alone closes it.
        max_staleness: Absent in a synchronous round. Else rounds are buffered: answers to the plans of so many versions before
            this one count, too, and a device takes this plan once its last upload was counted or refused.
        signature: Ed25519, of the plan without it (``wire.signature``); empty if the aggregator has no key.
    """

    fleet: DeviceId
    epoch: Count
    round_number: Positive
    previous: Annotated[str, Meta(pattern=r"^([0-9a-f]{64})?\Z")] = ""
    model_id: Digest
    shared_layers: dict[LayerName, Digest]
    personal_layers: dict[LayerName, Digest]
    training: TrainingSettings
    sketch_seed: Count
    sketch_width: Positive
    sketch_personal: bool = False
    swap_candidates: tuple[LayerName, ...] = ()
    duration_s: Seconds
    max_staleness: Annotated[int, Meta(ge=0, le=100)] | UnsetType = UNSET
    signature: bytes = b""


class Invitation(Message, frozen=True, kw_only=True):
    """A device is in this round's cohort. Nobody learns who else is.

    Args:
        plan: Digest of the plan that it is invited to.
    """

    plan: Digest


class Part(Message, frozen=True, kw_only=True):
    """One piece of a blob that is addressed by its digest: a layer's values, a program's file or a summary.

    Args:
        digest: Of the whole blob.
        index: Counts from 0.
        num_parts: How many there are.
        size_bytes: Of the whole blob.
        data: The piece.
    """

    digest: Digest
    index: Count
    num_parts: Positive
    size_bytes: Positive
    data: Annotated[bytes, Meta(max_length=MAX_PART_BYTES)]


class Measurement(msgspec.Struct, frozen=True):
    """A model's quality on one split of a device's data.

    Args:
        loss: The mean of what examples lose, each at most 20; of classes and labels in nats.
        accuracy: In ``[0, 1]``: the share of right classes or labels; of values the share of their variance that is explained.
        num_examples: How many were measured.
    """

    loss: float
    accuracy: float
    num_examples: Positive


class LayerSummary(msgspec.Struct, frozen=True):
    """What a device tells about its update of one layer.

    Args:
        norm: Euclidean norm of the update, in the units of the parameters.
        sketch: Its count sketch, float32 little-endian; the update itself where a shared layer is no larger than its
            sketch; empty for a personal layer, unless the plan declares otherwise.
    """

    norm: Annotated[float, Meta(ge=0)]
    sketch: bytes = b""


class InventoryItem(msgspec.Struct, frozen=True):
    """One layer that the device holds ready to upload.

    Args:
        layer: A shared layer of the plan.
        digest: Of its encoded values.
        size_bytes: Of its encoded values.
    """

    layer: LayerName
    digest: Digest
    size_bytes: Positive


class Summary(Message, frozen=True, kw_only=True):
    """A device's report on its round, small enough to be sent whole (in parts), with the inventory of its upload.

    Args:
        plan: Digest of the plan that it served.
        epoch: Of that plan.
        round_number: Of that plan.
        num_examples: In the local training split; the weight of its upload.
        num_steps: Optimizer steps that it took.
        train_loss: Mean training loss over the round's steps; 0 in a measuring round.
        layers: Layer -> summary of its update; empty in a measuring round.
        before: Validation with what the plan installed: the averages and its own personal layers.
        after: Validation after training.
        test: The test split with what the plan installed, where a device has one.
        swap_gains: Candidate -> loss with the average minus loss with the device's own layer, on validation data.
        inventory: What it holds ready, one item for every shared layer.
        bytes_up: Payload bytes that it has published since its first start.
        bytes_down: Payload bytes that it has received since its first start.
    """

    plan: Digest
    epoch: Count
    round_number: Positive
    num_examples: Positive
    num_steps: Count
    train_loss: float
    layers: dict[LayerName, LayerSummary]
    before: Measurement
    after: Measurement
    test: Measurement | None = None
    swap_gains: dict[LayerName, float] = {}
    inventory: tuple[InventoryItem, ...] = ()
    bytes_up: Count = 0
    bytes_down: Count = 0


class WantedPart(msgspec.Struct, frozen=True):
    """A part that the aggregator asks for; an answer without any means: wait, the window is full."""

    digest: Digest
    index: Count


class Acknowledgement(Message, frozen=True, kw_only=True):
    """The aggregator's own word on an upload; a PUBACK says nothing.

    Args:
        epoch: Of the upload.
        round_number: Of the upload.
        inventory: Digest of the upload's inventory.
        state: ``wanted``: send these parts; ``stored``: all are durable; ``counted``: they are in the average;
            ``refused``: they never will be, and ``reason`` says why. Only the last two end an upload.
        wanted: The parts that are granted now.
        reason: Why it was refused.
    """

    epoch: Count
    round_number: Positive
    inventory: Digest
    state: Literal["wanted", "stored", "counted", "refused"]
    wanted: tuple[WantedPart, ...] = ()
    reason: RefusalReason | Literal[""] = ""
