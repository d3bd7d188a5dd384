"""Which devices are there: what each has said of itself last."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from wire.errors import WireError
from wire.messages import DeviceStatus
from wire.tensors import Codec

__all__ = ["Presence"]

MAX_DEVICES = 100_000


class Presence:
    """The devices that have ever said that they are there."""

    def __init__(self) -> None:
        """Know nobody."""
        self._devices: dict[str, DeviceStatus] = {}
        self._reachable: dict[Codec, frozenset[str]] = {}  # made when it is asked for: with every message of a round

    def __contains__(self, device_id: object) -> bool:
        """Say whether this device has ever said that it is there."""
        return device_id in self._devices

    def take(self, device_id: str, status: DeviceStatus | None) -> None:
        """Take a device's status; ``None``, a cleared topic, forgets the device.

        Raises:
            WireError: If it would be one device too many.
        """
        known = self._devices.get(device_id)
        self._reachable.clear()
        if status is None:
            self._devices.pop(device_id, None)
        elif known is None and len(self._devices) >= MAX_DEVICES:
            raise WireError("unknown-device", f"{device_id} would be one more than {MAX_DEVICES} devices")
        elif known is None or status.state != "lost" or status.session >= known.session:
            self._devices[device_id] = (
                status  # else a late will of an older session; a birth counts whatever its number
            )

    @property
    def known(self) -> AbstractSet[str]:
        """All of them."""
        return self._devices.keys()

    def reachable(self, codec: Codec) -> frozenset[str]:
        """Return the devices that can take part or are training, and know this codec."""
        if codec not in self._reachable:
            self._reachable[codec] = frozenset(
                name
                for name, status in self._devices.items()
                if status.state in ("ready", "training") and codec in status.codecs
            )
        return self._reachable[codec]

    def runtimes(self) -> dict[str, str]:
        """Return device -> the runtime that it trains on."""
        return {name: status.runtime for name, status in self._devices.items()}
