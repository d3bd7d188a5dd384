"""Why a device sits out, and until when: a plan that it cannot serve, or work that failed. No I/O.

Work that failed, as training without enough memory, is tried again after half a minute, then after twice as long each time, at
most an hour; so a device that cannot do it neither gives up for ever nor spends its battery on it. One success, and all is
forgotten.
"""

from __future__ import annotations

__all__ = ["Trouble"]

FIRST_PAUSE_S = 30.0
LONGEST_PAUSE_S = 3600.0
MOST_REASON = 400


class Trouble:
    """What keeps one device from taking part."""

    def __init__(self) -> None:
        """All is well."""
        self._misfit = ""
        self._failure = ""
        self._num_failures = 0
        self._over_s: float | None = None

    @property
    def reason(self) -> str:
        """Why the device sits out, for people; empty if it does not."""
        return self._misfit or self._failure

    def give_up(self, reason: str) -> None:
        """Sit out until the next plan."""
        self._misfit = reason[:MOST_REASON]

    def plan_came(self) -> None:
        """There is another plan: what was wrong with the one before matters no more; a pause goes on."""
        self._misfit = ""

    def pause(self, reason: str, now_s: float) -> None:
        """Sit out for a while, whatever plans come: work has failed."""
        pause_s = min(FIRST_PAUSE_S * 2**self._num_failures, LONGEST_PAUSE_S)
        self._num_failures = min(self._num_failures + 1, 16)
        self._over_s = now_s + pause_s
        self._failure = (
            f"{reason[:MOST_REASON]}; it tries again {pause_s:.0f} s after failure {self._num_failures} in a row"
        )

    def is_over(self, now_s: float) -> bool:
        """Say, once, whether a pause ends now."""
        if self._over_s is None or now_s < self._over_s:
            return False
        self._failure, self._over_s = "", None
        return True

    def succeeded(self) -> None:
        """Work was done: the next failure is the first one."""
        self._num_failures = 0
