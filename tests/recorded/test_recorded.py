"""What a version wrote to disk is read by every later one: bytes that were recorded when the version was made.

The messages of each version are in ``tests/wire/golden_v1.json``. A folder here is never changed, only added to.
"""

from __future__ import annotations

import shutil
from contextlib import closing
from pathlib import Path

from aggregator.keeping.backup import restore
from aggregator.keeping.round_log import CohortAsked, RoundLog
from aggregator.keeping.store import FleetStore
from edge_client.store import DeviceStore
from tests.aggregator.test_round_log import DEVICES, check
from tests.aggregator.test_store import encoded, make_report, make_state
from tests.edge_client.test_store import generation

V1 = Path(__file__).parent / "v1"


def test_an_aggregators_backup_of_version_1(tmp_path: Path) -> None:
    assert restore(tmp_path, "home", V1 / "fleet.tar") == make_state(2)
    with closing(FleetStore(tmp_path)) as store:
        assert [version.state for version in store.versions()] == [make_state(2), make_state(1)]
        assert store.reports() == [make_report(1), make_report(2)]
        assert store.receipts() == {(0, number): {"kitchen": f"{number:064}"} for number in (1, 2)}
        for number in (1, 2):
            assert store.layers.load(make_state(number).layers["fc"]) == encoded(number)


def test_the_log_of_an_open_round_of_version_1(tmp_path: Path) -> None:
    shutil.copy(V1 / "round.log", tmp_path / "round.log")
    with closing(RoundLog(tmp_path / "round.log")) as log:
        assert log.asked == CohortAsked("p" * 64, DEVICES[:2])
        check(log, DEVICES[:2])


def test_a_devices_generation_of_version_1(tmp_path: Path) -> None:
    shutil.copy(V1 / "generation-a", tmp_path / "generation-a")
    assert DeviceStore(tmp_path).load_generation() == generation(1)
