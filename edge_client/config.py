"""The device's configuration: one TOML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from wire.broker_address import BrokerAddress
from wire.messages import DeviceId

__all__ = ["AggregatorIdentity", "EdgeConfig"]


class AggregatorIdentity(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How a device knows its aggregator.

    Args:
        key: Its public key, PEM; with it the device takes only plans that this key has signed. Absent: any that comes.
    """

    key: Path | None = None


class EdgeConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a device must be told.

    Args:
        fleet: The fleet's name.
        device_id: The device's own name.
        data: An ``.npz`` file with ``x_train``, ``y_train``, ``x_validation``, ``y_validation`` and, where there is a
            test split, ``x_test`` and ``y_test``.
        folder: Where the device keeps its program and its personal layers.
        runtime: ``onnx`` or ``executorch``.
        most_examples: Examples that are computed at once; a larger batch is run in pieces, with the same result but for
            rounding and in less memory. Absent: whole batches.
        memory_mb: The most memory that a step's values may take, in 10**6 bytes, beside the 45 to 55 of the process and some
            copies of the parameters: decides how many examples are computed at once. Absent: any.
        broker: Where the broker is.
        aggregator: How it knows its aggregator.
    """

    fleet: DeviceId
    device_id: DeviceId
    data: Path
    folder: Path
    runtime: Literal["onnx", "executorch"] = "onnx"
    most_examples: Annotated[int, Meta(ge=1, le=2**31 - 1)] | None = None
    memory_mb: Annotated[int, Meta(ge=1, le=2**31 - 1)] | None = None
    broker: BrokerAddress = BrokerAddress()
    aggregator: AggregatorIdentity = AggregatorIdentity()
