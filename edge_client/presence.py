"""What a device says of itself: its state and why it waits, again when something changes, and from time to time. No I/O."""

from __future__ import annotations

import math
from typing import Literal

from wire.messages import DeviceStatus
from wire.topics import STATUS, Address, Envelope

__all__ = ["Presence", "Status"]

PRESENCE_S = 300.0

Status = tuple[Literal["ready", "training", "waiting"], str]
"""The state that the fleet sees, and the reason why the device waits."""


class Presence:
    """The statuses of one start of a device.

    Args:
        device_id: The device's name.
        session_number: Of this start.
        runtime: ``onnx`` or ``executorch``.
    """

    def __init__(self, device_id: str, session_number: int, runtime: str) -> None:
        """Nothing was said yet."""
        self._device_id = device_id
        self._session_number = session_number
        self._runtime = runtime
        self._told: Status | None = None
        self._due_s = math.inf

    def is_due(self, now_s: float) -> bool:
        """Say whether it is time to say the same again: the last word may have been lost, or an older one come late."""
        return now_s >= self._due_s

    def say_again(self, now_s: float) -> None:
        """Take nothing for said, and be due again in five minutes."""
        self._told, self._due_s = None, now_s + PRESENCE_S

    def say(self, status: Status, seen: tuple[int, int]) -> list[Envelope]:
        """Return the status to publish, if it is not what was said last.

        Args:
            status: Of now.
            seen: Epoch and round number of the latest plan that the device has seen.
        """
        if self._told == status:
            return []
        self._told = status
        (state, reason), (epoch, round_number) = status, seen
        message = DeviceStatus(
            state=state,
            reason=reason,
            session=self._session_number,
            runtime=self._runtime,
            epoch=epoch,
            round_number=round_number,
        )
        return [Envelope(Address(STATUS, self._device_id), message)]
