"""Who can be asked follows what each device has said of itself last, however often somebody asks."""

from __future__ import annotations

from typing import Any

from aggregator.presence import Presence
from wire.messages import DeviceStatus


def status(state: str, session: int = 1, **fields: Any) -> DeviceStatus:
    return DeviceStatus(state=state, session=session, **fields)  # type: ignore[arg-type]


def test_whom_one_can_reach_changes_with_every_status() -> None:
    presence = Presence()
    for device_id, said, reachable in (
        ("attic", status("ready"), {"attic"}),
        ("cellar", status("waiting", reason="hot"), {"attic"}),
        ("cellar", status("training"), {"attic", "cellar"}),
        ("attic", status("lost", session=0), {"attic", "cellar"}),
        ("attic", status("lost"), {"cellar"}),
        ("cellar", None, set()),
        ("kitchen", status("ready", codecs=("raw",)), {"kitchen"}),
    ):
        presence.take(device_id, said)
        for _ in range(2):
            assert presence.reachable("raw") == reachable
    assert presence.reachable("zstd") == set()
