import bz2
import gzip
import lzma
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from simulations.data import rdata
from simulations.data.rdata import Factor, read_data_frame
from wire.errors import DataError


@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress, lzma.compress])
def test_a_data_frame_comes_back_however_it_is_packed(
    tmp_path: Path, small_frame: bytes, pack: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / "Small.rda"
    path.write_bytes(pack(small_frame))
    frame = read_data_frame(path, "Small")
    kind = frame["kind"]
    assert np.array_equal(np.asarray(frame["x"]), [1.5, -2.0])
    assert isinstance(kind, Factor)
    assert kind.codes.tolist() == [1, -1]  # R's NA
    assert kind.levels == ("old", "new")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(st.data())
def test_a_damaged_file_is_refused_or_read_and_never_crashes(
    tmp_path: Path, small_frame: bytes, data: st.DataObject
) -> None:
    raw = bytearray(small_frame)
    for place in data.draw(st.lists(st.integers(7, len(raw) - 1), min_size=1, max_size=3)):
        raw[place] = data.draw(st.integers(0, 255))
    path = tmp_path / "Small.rda"
    path.write_bytes(raw[: data.draw(st.integers(0, len(raw)))])
    try:
        read_data_frame(path, "Small")
    except DataError as error:
        assert str(path) in str(error)  # noqa: PT017 - it may also still be a data frame


@pytest.mark.parametrize(
    ("kind", "why"),
    [(3, "kind 3, which is no data"), (4, "kind 4"), (6, "kind 6"), (238, "kind 238"), (255, "refers to symbol")],
)
def test_what_could_hold_code_is_refused(tmp_path: Path, kind: int, why: str) -> None:
    path = tmp_path / "a.rda"
    path.write_bytes(b"RDX2\nX\n" + struct.pack(">iiiii", 2, 0, 0, kind, 0))
    with pytest.raises(DataError, match=why):
        read_data_frame(path, "a")


def test_a_claim_of_more_than_the_file_holds_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.rda"
    for kind in (10, 13, 14, 16, 19):
        path.write_bytes(b"RDX2\nX\n" + struct.pack(">iiiii", 2, 0, 0, kind, 2**31 - 1))
        with pytest.raises(DataError, match=r"ends early|claims a list"):
            read_data_frame(path, "a")


def test_lists_in_lists_without_end_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.rda"
    path.write_bytes(b"RDX2\nX\n" + struct.pack(">iii", 2, 0, 0) + struct.pack(">ii", 19, 1) * 5000)
    with pytest.raises(DataError, match="levels deep"):
        read_data_frame(path, "a")


def test_an_archive_that_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rdata, "MAX_BYTES", 1000)
    path = tmp_path / "a.rda"
    for pack in (gzip.compress, bz2.compress):
        path.write_bytes(pack(bytes(5000)))
        with pytest.raises(DataError, match="more than 1000 bytes"):
            read_data_frame(path, "a")


def test_a_name_that_is_not_there_and_a_file_that_is_not_there_are_data_errors(
    tmp_path: Path, small_frame: bytes
) -> None:
    path = tmp_path / "a.rda"
    with pytest.raises(DataError, match="No such file"):
        read_data_frame(path, "a")
    path.write_bytes(small_frame)
    with pytest.raises(DataError, match="no data frame 'Large'"):
        read_data_frame(path, "Large")
