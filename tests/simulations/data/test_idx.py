import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from simulations.data.idx import read_idx, read_images_and_labels
from wire.errors import DataError

WriteIdx = Callable[[Path, np.ndarray], None]


def header(*shape: int) -> bytes:
    return bytes([0, 0, 8, len(shape)]) + struct.pack(f">{len(shape)}I", *shape)


@given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=3, max_dims=3, max_side=5)), st.sampled_from(["a", "a.gz"]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_was_written_comes_back(tmp_path: Path, write_idx: WriteIdx, array: np.ndarray, name: str) -> None:
    write_idx(tmp_path / name, array)
    assert np.array_equal(read_idx(tmp_path / name, 3), array)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "not an idx file"),
        (b"\0\0\x0d\1" + bytes(4), "not an idx file"),
        (header(1, 1, 1) + b"x", "with 1 axes"),
        (header(5) + b"1234", "holds 4|more than it can hold"),
        (header(3) + b"1234", "holds more"),
        (header(2**32 - 1) + b"1", "more than it can hold"),
    ],
)
@pytest.mark.parametrize("name", ["a", "a.gz"])
def test_a_header_that_lies_is_refused(tmp_path: Path, content: bytes, why: str, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    with pytest.raises(DataError, match=why):
        read_idx(path, 1)


@pytest.mark.parametrize("content", [b"no gzip", gzip.compress(header(400) + bytes(400))[:-12]])
def test_a_broken_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.gz"
    path.write_bytes(content)
    with pytest.raises(DataError, match="fetch the file again"):
        read_idx(path, 1)


def test_a_file_that_is_not_there_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No such file"):
        read_idx(tmp_path / "a", 1)


def test_images_and_labels_of_two_downloads_are_refused(tmp_path: Path, write_idx: WriteIdx) -> None:
    write_idx(tmp_path / "x", np.zeros((3, 2, 2), dtype=np.uint8))
    write_idx(tmp_path / "y", np.zeros(2, dtype=np.uint8))
    with pytest.raises(DataError, match=r"3 images.* 2 labels"):
        read_images_and_labels(tmp_path / "x", tmp_path / "y")
