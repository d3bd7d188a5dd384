"""When the next round may open: enough devices are ready, and have been for as long as the others deserve. No I/O."""

from __future__ import annotations

from aggregator.config import RoundSettings

__all__ = ["Gathering"]


class Gathering:
    """The time between two rounds.

    Args:
        settings: How rounds run.
    """

    def __init__(self, settings: RoundSettings) -> None:
        """Nobody is ready yet."""
        self._settings = settings
        self._since_s: float | None = None

    def is_over(self, num_ready: int, now_s: float, *, waits: bool) -> bool:
        """Say, once, whether a round may open.

        Args:
            num_ready: How many devices could be asked now.
            now_s: The time.
            waits: Whether fewer than a cohort wait for more to come.
        """
        if num_ready < self._settings.quorum:
            self._since_s = None
            return False
        if self._since_s is None:
            self._since_s = now_s
        is_early = now_s - self._since_s < self._settings.gather_s
        if waits and is_early and num_ready < self._settings.cohort_size:
            return False
        self._since_s = None
        return True
