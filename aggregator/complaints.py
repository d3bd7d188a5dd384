"""What is said about refused messages: the first of a device for a reason at once, then how many there were in a minute."""

from __future__ import annotations

from collections import OrderedDict

from wire.errors import WireError

__all__ = ["Complaints"]

QUIET_S = 60.0
MAX_TOPICS = 1000


class Complaints:
    """Lines for the log; a million messages make a line or two a minute."""

    def __init__(self) -> None:
        """Have nothing to say."""
        self._noted: OrderedDict[tuple[str, str], tuple[float, int]] = OrderedDict()
        self._fresh: list[str] = []

    def note(self, who: str, error: WireError, now_s: float) -> None:
        """Take note of a message that was refused.

        Args:
            who: The device, or the topic where there is none.
            error: Why.
            now_s: When.
        """
        key = (who, error.reason)
        if key not in self._noted and len(self._noted) >= MAX_TOPICS:
            key = ("other devices", error.reason)
        if key in self._noted:
            since_s, count = self._noted[key]
            self._noted[key] = (since_s, count + 1)
            return
        self._noted[key] = (now_s, 0)
        self._fresh.append(f"refused a message of {key[0]}: {error}")

    def lines(self, now_s: float) -> list[str]:
        """Return what is to be said now."""
        lines, self._fresh = self._fresh, []
        while self._noted:
            (who, reason), (since_s, count) = next(iter(self._noted.items()))
            if now_s - since_s < QUIET_S:
                break
            del self._noted[who, reason]
            if count:
                lines.append(f"refused {count} more messages of {who} in {now_s - since_s:.0f} s: {reason}")
                self._noted[who, reason] = (now_s, 0)
        return lines
