"""A fleet under load loses nothing that it has acknowledged; the bench would see it if it did."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

import simulations.bench.fleets
from simulations.bench.fleets import FleetRow, bench_fleet
from simulations.bench.ledgers import DeviceLedger, UploadLedger, count_lost, delays_ms
from tests.broker.secured import skip_without_mosquitto
from wire.errors import BrokerError, FleetError, StoreError

ROOT = Path(__file__).parents[3]


@pytest.mark.slow
def test_twenty_devices_over_tls_upload_and_nothing_is_lost() -> None:
    skip_without_mosquitto()
    command = [sys.executable, "-m", "fedlag", "bench", "fleet", "--devices", "20", "--rounds", "2", "--format", "json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout)
    row = msgspec.convert(found, FleetRow)
    assert set(found) == set(FleetRow.__struct_fields__)
    assert (row.devices, row.rounds, row.lost) == (20, 2, 0)
    assert row.upload_mb == pytest.approx(1.046184)
    assert 0 < row.durable_p50_ms <= row.durable_p99_ms <= row.ack_p99_ms
    assert 0 < row.ack_p50_ms <= row.ack_p99_ms
    assert min(row.ready_s, row.round_s, row.aggregator_cpu_s, row.aggregator_rss_mb) > 0


def upload(round_number: int, **noted: object) -> UploadLedger:
    return msgspec.convert({"epoch": 0, "round_number": round_number, **noted}, UploadLedger)


def test_what_a_device_was_told_is_stored_and_no_receipt_names_is_lost() -> None:
    stored = {"announced_s": 1.0, "last_part_s": 3.0, "stored_s": 4.5}
    ledgers = {
        "attic": DeviceLedger(uploads=[upload(1, inventory="a1", **stored), upload(2, inventory="a2", **stored)]),
        "cellar": DeviceLedger(uploads=[upload(1, inventory="c1"), upload(2, announced_s=1.0)]),
    }
    whole = {(0, 1): {"attic": "a1", "cellar": "c1"}, (0, 2): {"attic": "a2"}}
    assert count_lost(ledgers, whole) == 0
    assert count_lost(ledgers, {**whole, (0, 2): {}}) == 1
    assert count_lost(ledgers, {**whole, (0, 1): {"attic": "another", "cellar": "c1"}}) == 1
    assert count_lost(ledgers, {}) == 3
    assert delays_ms(ledgers) == ([3500.0, 3500.0], [1500.0, 1500.0])


def test_without_mosquitto_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("broker.mosquitto.PLACES", ())
    with pytest.raises(BrokerError, match="apt-get install mosquitto"):
        bench_fleet(20, 1)


def test_a_disk_without_room_and_a_system_that_allows_too_few_connections_are_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    skip_without_mosquitto()
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: shutil._ntuple_diskusage(10, 5, 5))
    with pytest.raises(StoreError, match="room for 0 MB, this needs 42"):
        bench_fleet(20, 1)
    monkeypatch.setattr(simulations.bench.fleets, "DESCRIPTORS_PER_DEVICE", 2**40)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        pytest.skip(f"this system allows any number, {soft} by default")
    with pytest.raises(FleetError, match="open files are needed"):
        bench_fleet(20, 1)
