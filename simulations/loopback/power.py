"""The power and the disk of a simulated machine: it may be cut off before any of its effects, and come back later."""

from __future__ import annotations

from abc import ABC, abstractmethod

from simulations.loopback.network import Loopback

__all__ = ["Powered"]

RESTART_S = 3.0


class Powered(ABC):
    """A machine that starts again by itself, as a service does.

    Args:
        network: Whose time it lives in.
    """

    def __init__(self, network: Loopback) -> None:
        """Have power, and room on the disk."""
        self.is_disk_full = False
        self._network = network
        self._fuse: tuple[int, float] | None = None

    @abstractmethod
    def start(self) -> None:
        """Turn it on, perhaps again, from what its disk holds."""

    @abstractmethod
    def stop(self) -> None:
        """Cut its power."""

    def cut_power_after(self, num_effects: int, pause_s: float) -> None:
        """Let it do so many more things, then cut its power, for so long."""
        self._fuse = (num_effects, pause_s)

    def lose_power(self) -> bool:
        """Say whether its power is cut now, before it does the next thing; if it is, it comes back later."""
        if self._fuse is None:
            return False
        num_effects, pause_s = self._fuse
        self._fuse = (num_effects - 1, pause_s) if num_effects else None
        if num_effects == 0:
            self._end(pause_s)
        return num_effects == 0

    def fail_to_write(self) -> bool:
        """Say whether the disk is full; if it is, the process ends with its error, and is started again."""
        if self.is_disk_full:
            self._end(RESTART_S)
        return self.is_disk_full

    def _end(self, pause_s: float) -> None:
        self.stop()
        self._network.at(self._network.now_s + pause_s, self.start)
