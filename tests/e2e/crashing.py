"""``fedlag`` in a process that kills itself at a named point: ``python -m tests.e2e.crashing POINT COUNT fedlag-arguments``.

The product knows nothing of this: a function of it is wrapped here, and ends the process at its COUNT-th call, as
``kill -9`` would.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import edge_client.session
import edge_client.store
import fedlag
from aggregator.keeping.round_log import RoundLog
from aggregator.keeping.store import FleetStore
from wire.mqtt import MqttLink
from wire.topics import PLAN, UPDATE, Envelope

__all__ = ["POINTS"]


def _before(owner: Any, name: str, count: int, matters: Callable[..., bool] = lambda *_: True) -> None:
    """Kill the process at the start of a call."""
    _wrap(owner, name, count, matters, is_over=False)


def _after(owner: Any, name: str, count: int) -> None:
    """Kill the process at the end of a call."""
    _wrap(owner, name, count, lambda *_: True, is_over=True)


def _wrap(owner: Any, name: str, count: int, matters: Callable[..., bool], *, is_over: bool) -> None:
    wrapped, calls = getattr(owner, name), 0

    def crashing(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += matters(*arguments)
        if calls == count and not is_over:
            os.kill(os.getpid(), signal.SIGKILL)
        result = wrapped(*arguments, **options)
        if calls == count and is_over:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, crashing)


def _is(route: object) -> Callable[[MqttLink, Envelope], bool]:
    return lambda _, envelope: envelope.address.route is route


POINTS: dict[str, Callable[[int], None]] = {
    # on the aggregator
    "cohort asked, nobody invited": lambda count: _after(RoundLog, "ask", count),
    "upload in the log, not acknowledged": lambda count: _after(RoundLog, "commit", count),
    "averaged, not saved": lambda count: _before(FleetStore, "save", count),
    "saved, not published": lambda count: _after(FleetStore, "save", count),
    "parts published, plan not": lambda count: _before(MqttLink, "publish", count, _is(PLAN)),
    # on a device
    "trained, not kept": lambda count: _before(edge_client.store.DeviceStore, "save_generation", count),
    "the one before moved aside, the next not kept": lambda count: _after(
        edge_client.store.DeviceStore, "_set_aside", count
    ),
    "kept, not announced": lambda count: _after(edge_client.store.DeviceStore, "save_generation", count),
    "own layers kept, averages not installed": lambda count: _before(edge_client.session, "prepare_work", count),
    "in the middle of the upload": lambda count: _before(MqttLink, "publish", count, _is(UPDATE)),
}

if __name__ == "__main__":
    point, number, *rest = sys.argv[1:]
    POINTS[point](int(number))
    sys.argv = [str(Path(fedlag.__file__)), *rest]
    fedlag.main()
