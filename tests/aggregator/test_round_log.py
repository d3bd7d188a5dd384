"""The log of the open round: read again after a crash, it holds all that was acknowledged, and nothing that is not whole."""

from __future__ import annotations

import logging
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.averaging import weighted_average
from aggregator.keeping.round_log import MAGIC, CohortAsked, RoundLog
from wire.messages import Measurement, Summary

DEVICES = ("attic", "kitchen", "shed")
SIZES = {"conv": 5, "fc": 1000}


def make_summary(device_id: str) -> Summary:
    measured = Measurement(loss=1.0, accuracy=0.5, num_examples=10)
    return Summary(
        epoch=0,
        round_number=1,
        plan="0" * 64,
        num_examples=1 + DEVICES.index(device_id),
        num_steps=1,
        train_loss=1.0,
        before=measured,
        after=measured,
        layers={},
    )


def values_of(device_id: str, layer: str) -> np.ndarray:
    rng = np.random.default_rng([DEVICES.index(device_id), SIZES[layer]])
    return rng.normal(size=SIZES[layer]).astype(np.float32)


def write(log: RoundLog, devices: tuple[str, ...] = DEVICES) -> None:
    log.ask("p" * 64, devices)
    for device_id in devices:
        for layer in SIZES:
            log.append(device_id, layer, values_of(device_id, layer))
        log.commit(device_id, make_summary(device_id))


def check(log: RoundLog, devices: tuple[str, ...]) -> None:
    assert log.stored == {device_id: make_summary(device_id) for device_id in devices}
    for layer in SIZES:
        for device_id, row in log.rows(layer, devices).items():
            np.testing.assert_array_equal(row[0 : SIZES[layer]], values_of(device_id, layer))


def test_it_gives_back_each_device_and_layer_and_leaves_nothing(tmp_path: Path) -> None:
    log = RoundLog(tmp_path / "log")
    write(log)
    check(log, DEVICES)
    log.delete()
    assert not list(tmp_path.iterdir())


def test_read_again_it_holds_what_was_asked_and_stored(tmp_path: Path) -> None:
    with closing(RoundLog(tmp_path / "log")) as log:
        write(log)
    with closing(RoundLog(tmp_path / "log")) as again:
        assert again.asked == CohortAsked("p" * 64, DEVICES)
        check(again, DEVICES)


def test_the_next_log_takes_over_what_devices_go_on_with_though_the_file_before_is_gone(tmp_path: Path) -> None:
    before = RoundLog(tmp_path / "before")
    write(before)
    (tmp_path / "before").unlink()
    with closing(RoundLog(tmp_path / "next")) as log:
        log.take_over(before, [(device_id, layer) for device_id in DEVICES[:2] for layer in SIZES])
        before.delete()
        for device_id in DEVICES[:2]:
            log.commit(device_id, make_summary(device_id))
    with closing(RoundLog(tmp_path / "next")) as again:
        check(again, DEVICES[:2])
        assert again.asked is None


@given(end=st.integers(0, 16_000))
def test_cut_off_anywhere_it_holds_the_whole_uploads_before_the_cut(
    tmp_path_factory: pytest.TempPathFactory, end: int
) -> None:
    path = tmp_path_factory.mktemp("log") / "log"
    ends = []
    for count in (1, 2, 3):
        with closing(RoundLog(path)) as log:
            write(log, DEVICES[count - 1 : count])
        ends.append(path.stat().st_size)
    path.write_bytes(path.read_bytes()[:end])
    num_whole = sum(stored_at <= end for stored_at in ends)
    with closing(RoundLog(path)) as again:
        check(again, DEVICES[:num_whole])
        write(again, DEVICES[num_whole:])  # it goes on where it was cut
    with closing(RoundLog(path)) as whole:
        check(whole, DEVICES)


@given(place=st.integers(0, 16_000), bit=st.integers(0, 7))
def test_a_flipped_bit_loses_what_follows_and_gives_no_wrong_value(
    tmp_path_factory: pytest.TempPathFactory, place: int, bit: int
) -> None:
    path = tmp_path_factory.mktemp("log") / "log"
    with closing(RoundLog(path)) as log:
        write(log)
    data = bytearray(path.read_bytes())
    data[place % len(data)] ^= 1 << bit
    path.write_bytes(data)
    with closing(RoundLog(path)) as again:
        check(again, DEVICES[: len(again.stored)])
        assert len(again.stored) < len(DEVICES)
        assert not again.stored or place % len(data) >= len(MAGIC)
        write(again, DEVICES[len(again.stored) :])  # it goes on where it was damaged
    with closing(RoundLog(path)) as whole:
        check(whole, DEVICES)


def test_what_is_cut_off_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with closing(RoundLog(tmp_path / "log")) as log:
        write(log)
    with (tmp_path / "log").open("ab") as file:
        file.write(b"half a rec")
    with caplog.at_level(logging.WARNING), closing(RoundLog(tmp_path / "log")) as again:
        check(again, DEVICES)
    assert "the last 10 bytes are not whole" in caplog.text


def test_averaging_the_log_by_blocks_gives_the_bits_of_averaging_arrays(tmp_path: Path) -> None:
    weights = {device_id: float(make_summary(device_id).num_examples) for device_id in DEVICES}
    rows = {device_id: values_of(device_id, "fc") for device_id in DEVICES}
    whole = weighted_average(rows, weights)
    with closing(RoundLog(tmp_path / "log")) as log:
        write(log, DEVICES[::-1])
        for block_size in (1, 7, 1000):
            np.testing.assert_array_equal(weighted_average(log.rows("fc", DEVICES), weights, block_size), whole)
