"""What a comparison found: per device, per round and per arm.

An arm is one way to learn, run on the same devices with the same data. Figures are per device, on the device's own test
examples, with the model that this device would use: the shared layers plus its own personal ones.
"""

from __future__ import annotations

import statistics
from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import Meta

from wire.errors import DataError

__all__ = [
    "LOCAL_ARM",
    "ArmResult",
    "DemoResult",
    "DeviceResult",
    "Estimate",
    "RoundResult",
    "from_json",
    "share_below_local",
    "to_json",
]

LOCAL_ARM = "local"
"""The name of the arm in which every device trains alone."""

Share = Annotated[float, Meta(ge=0, le=1)]
Count = Annotated[int, Meta(ge=0)]


class Estimate(NamedTuple):
    """A mean over devices or seeds, with what it may be off by.

    Args:
        mean: The mean.
        standard_error: Standard deviation (``ddof=1``) over the root of the number; None of a single value.
    """

    mean: float
    standard_error: float | None


class DeviceResult(msgspec.Struct, frozen=True, kw_only=True):
    """How one device ended in one arm.

    Args:
        device_id: Its name in the fleet.
        runtime: What trained it, ``onnx`` or ``executorch``.
        num_train: Number of its training examples.
        validation_accuracy: On its validation examples, at the end.
        test_accuracy: On its test examples, at the end.
        bytes_up: What it published, all rounds together.
        bytes_down: What it received, all rounds together.
    """

    device_id: str
    runtime: str
    num_train: Count
    validation_accuracy: Share
    test_accuracy: Share
    bytes_up: Count
    bytes_down: Count


class RoundResult(msgspec.Struct, frozen=True, kw_only=True):
    """How one round went in one arm.

    Args:
        round_number: From 1.
        personal_layers: Those that were personal during this round.
        conflict: Layer -> share of the pairs of devices in conflict; None where no pair could be compared.
        mean_cosine: Layer -> mean cosine over the pairs, in ``[-1, 1]``; None where no pair could be compared.
        validation_accuracy: Mean over the devices, after the round.
        validation_loss: Mean over the devices, in nats; None where it was not finite.
        num_counted: Number of devices whose answer was averaged.
        reasons: Layer -> why the decision after this round chose, tested or kept it; it holds from the next round.
        swap_gains: Layer -> held-out loss, in nats, that a device saves by keeping it; only in rounds with a test.
    """

    round_number: Annotated[int, Meta(ge=1)]
    personal_layers: tuple[str, ...]
    conflict: dict[str, Share | None]
    mean_cosine: dict[str, float | None]
    validation_accuracy: Share
    validation_loss: float | None
    num_counted: Count
    reasons: dict[str, str] = {}
    swap_gains: dict[str, Estimate] = {}


class ArmResult(msgspec.Struct, frozen=True, kw_only=True):
    """One way to learn, from its first round to its last.

    Args:
        name: The arm's name, for example ``fedlag-swap``.
        learning_rate: The devices' learning rate, chosen on validation examples.
        devices: One result per device, at least one.
        rounds: One result per round, in order; empty where an arm has no rounds.
    """

    name: str
    learning_rate: float
    devices: Annotated[tuple[DeviceResult, ...], Meta(min_length=1)]
    rounds: tuple[RoundResult, ...]

    @property
    def mean_test_accuracy(self) -> float:
        """Mean of the devices' accuracies, each device counting once."""
        return statistics.fmean(device.test_accuracy for device in self.devices)

    @property
    def worst_test_accuracy(self) -> float:
        """The accuracy of the device that fares worst."""
        return min(device.test_accuracy for device in self.devices)

    @property
    def bytes_up_per_device(self) -> float:
        """Mean number of bytes that a device published, all rounds together."""
        return statistics.fmean(device.bytes_up for device in self.devices)

    @property
    def bytes_down_per_device(self) -> float:
        """Mean number of bytes that a device received, all rounds together."""
        return statistics.fmean(device.bytes_down for device in self.devices)

    @property
    def personal_layers(self) -> tuple[str, ...]:
        """The layers that were personal in the last round; none without rounds."""
        return self.rounds[-1].personal_layers if self.rounds else ()


class DemoResult(msgspec.Struct, frozen=True, kw_only=True):
    """All arms of one comparison with one seed.

    Args:
        seed: Decides the split of the data, the first parameters and the order of the examples.
        num_rounds: Rounds of the federated arms.
        arms: Name -> result, in the order in which to show them, at least one.
        layers: Layer -> number of its parameters, from input to output.
        wall_s: Duration of all arms together.
        data_source: What the devices learned from, in one line.
        data_license: Whose data it is, and under which license.
        settings: Name -> value, as a person would read them: epochs, batch size, thresholds.
        versions: Package -> version.
    """

    seed: int
    num_rounds: Annotated[int, Meta(ge=1)]
    arms: Annotated[dict[str, ArmResult], Meta(min_length=1)]
    layers: dict[str, Count]
    wall_s: float
    data_source: str = ""
    data_license: str = ""
    settings: dict[str, str | int | float] = {}
    versions: dict[str, str] = {}


def share_below_local(results: DemoResult, arm: str) -> float | None:
    """Return the share of an arm's devices that would have done better alone.

    Args:
        results: The comparison.
        arm: The arm's name.

    Returns:
        In ``[0, 1]``: devices whose test accuracy is below their own in the arm ``local``; a tie is not below. None if
        there is no such arm, or if the two arms have no device in common.

    Raises:
        KeyError: If there is no arm of that name.
    """
    devices = results.arms[arm].devices
    if LOCAL_ARM not in results.arms:
        return None
    alone = {device.device_id: device.test_accuracy for device in results.arms[LOCAL_ARM].devices}
    below = [device.test_accuracy < alone[device.device_id] for device in devices if device.device_id in alone]
    return statistics.fmean(below) if below else None


def to_json(results: DemoResult) -> bytes:
    """Encode for other programs, indented, with an arm's derived figures written beside its own.

    ``arms.<name>`` holds also ``mean_test_accuracy``, ``worst_test_accuracy``,
    ``share_below_local``, ``bytes_up_per_device``, ``bytes_down_per_device`` and ``personal_layers``.
    """
    tree: dict[str, Any] = msgspec.to_builtins(results)
    for name, arm in results.arms.items():
        derived = {
            "mean_test_accuracy": arm.mean_test_accuracy,
            "worst_test_accuracy": arm.worst_test_accuracy,
            "share_below_local": share_below_local(results, name),
            "bytes_up_per_device": arm.bytes_up_per_device,
            "bytes_down_per_device": arm.bytes_down_per_device,
            "personal_layers": arm.personal_layers,
        }
        tree["arms"][name] = {"name": arm.name, **derived, **tree["arms"][name]}
    return msgspec.json.format(msgspec.json.encode(tree), indent=2) + b"\n"


def from_json(raw: bytes) -> DemoResult:
    """Decode what ``to_json`` made of a ``DemoResult``; the derived figures are derived again.

    Raises:
        DataError: If the bytes are not such a result.
    """
    try:
        return msgspec.json.decode(raw, type=DemoResult)
    except msgspec.DecodeError as error:
        raise DataError(f"not the result of a demo: {error}") from error
