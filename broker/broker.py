"""What every broker of ours can do; the embedded one serves this machine, mosquitto will serve the home."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Broker"]


class Broker(Protocol):
    """A broker that this process starts and stops."""

    @property
    def host(self) -> str:
        """The address to connect to."""
        ...

    @property
    def port(self) -> int:
        """The TCP port to connect to."""
        ...

    def start(self) -> None:
        """Return when the broker accepts connections.

        Raises:
            BrokerError: If it cannot be started, for example because its port is taken.
        """
        ...

    def stop(self) -> None:
        """End the broker and release its port; a second call does nothing."""
        ...
