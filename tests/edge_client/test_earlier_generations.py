"""A device keeps some generations before its last two: for a fleet that goes back, and for a disk that goes bad."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_client.store import NUM_EARLIER, SLOTS, DeviceStore
from tests.edge_client.test_store import generation


def test_generations_before_the_last_two_are_kept_up_to_a_number_and_come_the_newest_first(tmp_path: Path) -> None:
    store = DeviceStore(tmp_path)
    assert list(store.kept_generations()) == []
    for number in range(1, 20):
        store.save_generation(generation(number, epoch=number // 10))
    kept = [generation(number, epoch=number // 10) for number in range(19, 19 - 2 - NUM_EARLIER, -1)]
    assert list(store.kept_generations()) == kept
    again = DeviceStore(tmp_path)
    again.load_generation()
    assert list(again.kept_generations()) == kept


def test_generations_before_the_last_two_are_kept_up_to_a_number_of_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = DeviceStore(tmp_path)
    for number in range(1, 6):
        store.save_generation(generation(number))
    size = next((tmp_path / "earlier").iterdir()).stat().st_size
    monkeypatch.setattr("edge_client.store.MAX_EARLIER_BYTES", 2 * size + 100)
    for number in range(6, 9):
        store.save_generation(generation(number))
    assert [it.round_number for it in store.kept_generations()] == [8, 7, 6, 5]


def test_an_earlier_generation_that_is_damaged_is_left_out_and_the_log_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = DeviceStore(tmp_path)
    for number in range(1, 6):
        store.save_generation(generation(number))
    (tmp_path / "earlier" / "0000000001-0000000002").write_bytes(b"rubbish")
    assert [it.round_number for it in store.kept_generations()] == [5, 4, 3, 1]
    assert "0000000001-0000000002 is damaged" in caplog.text


def test_a_device_of_which_both_newest_generations_are_damaged_goes_on_from_the_one_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = DeviceStore(tmp_path)
    for number in range(1, 5):
        store.save_generation(generation(number))
    for slot in SLOTS:
        (tmp_path / slot).write_bytes(b"rubbish")
    again = DeviceStore(tmp_path)
    assert again.load_generation() == generation(2)
    assert caplog.text.count("is damaged") == 2
    for number in (3, 4):
        again.save_generation(generation(number))
    found = DeviceStore(tmp_path)
    assert found.load_generation() == generation(4)
    assert [it.round_number for it in found.kept_generations()] == [4, 3, 2, 1]


def test_a_power_cut_between_moving_one_aside_and_writing_the_next_loses_nothing(tmp_path: Path) -> None:
    store = DeviceStore(tmp_path)
    for number in range(1, 4):
        store.save_generation(generation(number))
    store._set_aside()
    again = DeviceStore(tmp_path)
    assert again.load_generation() == generation(3)
    assert [it.round_number for it in again.kept_generations()] == [3, 2, 1]
    again.save_generation(generation(4))
    last = DeviceStore(tmp_path)
    assert last.load_generation() == generation(4)
    assert [it.round_number for it in last.kept_generations()] == [4, 3, 2, 1]
