"""A device's data is used as it is, or refused in one line that names the file and what to do."""

from __future__ import annotations

import io
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_client.dataset import load_dataset
from wire.errors import DataError
from wire.manifest import LayerSpec, ModelManifest, ParameterSpec

MANIFEST = ModelManifest("tiny", (LayerSpec("fc1", (ParameterSpec("fc1.weight", (3,)),)),), (3, 2), 4, {})


class Bomb:
    """Unpickling it would leave a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.path),)


def arrays(**changes: Any) -> dict[str, Any]:
    """Good splits with some arrays changed, or left out where ``None``."""
    good = {
        "x_train": np.ones((6, 3, 2), np.float32),
        "y_train": np.array([0, 1, 2, 3, 0, 1]),
        "x_validation": np.zeros((2, 3, 2), np.float32),
        "y_validation": np.array([0, 3]),
    }
    return {name: array for name, array in (good | changes).items() if array is not None}


def write(tmp_path: Path, **changes: Any) -> Path:
    path = tmp_path / "data.npz"
    np.savez(path, **arrays(**changes))
    return path


def refused(path: Path) -> str:
    with pytest.raises(DataError) as error:
        load_dataset(path, MANIFEST)
    said = str(error.value)
    assert str(path) in said
    assert "\n" not in said
    return said


def test_three_splits_come_as_float32_and_int64(tmp_path: Path) -> None:
    x, y = np.full((1, 3, 2), 7, np.uint8), np.array([2], np.uint8)
    data = load_dataset(write(tmp_path, x_test=x, y_test=y), MANIFEST)
    assert data.test is not None
    assert (data.test.inputs == 7).all()
    for split in data:
        assert split is not None
        assert (split.inputs.dtype, split.targets.dtype) == (np.float32, np.int64)
    assert data.train.targets.tolist() == [0, 1, 2, 3, 0, 1]


def test_a_compressed_file_in_fortran_order_is_the_same(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    x = np.arange(36.0).reshape(6, 3, 2)
    np.savez_compressed(path, **arrays(x_train=np.asfortranarray(x)))
    split = load_dataset(path, MANIFEST).train
    assert split.inputs.flags.c_contiguous
    assert (split.inputs == x).all()


def test_a_test_split_may_be_missing(tmp_path: Path) -> None:
    assert load_dataset(write(tmp_path), MANIFEST).test is None


BOOLS = np.array([True] * 6)
CASES: dict[str, tuple[dict[str, Any], str]] = {
    "no training inputs": ({"x_train": None}, "needs x_train"),
    "no training labels": ({"y_train": None}, "needs x_train"),
    "no validation": ({"x_validation": None, "y_validation": None}, "and y_validation"),
    "no examples": ({"x_train": np.ones((0, 3, 2)), "y_train": np.array([], int)}, "x_train has shape"),
    "fewer labels": ({"y_train": np.array([0])}, "expects (1, 3, 2)"),
    "another input shape": ({"x_train": np.ones((6, 2, 3))}, "x_train has shape (6, 2, 3)"),
    "inputs flattened": ({"x_train": np.ones((6, 6))}, "x_train has shape (6, 6)"),
    "one input": ({"x_train": np.float32(1)}, "x_train has shape"),
    "one label": ({"y_train": np.int64(1)}, "x_train has shape"),
    "labels as one-hot": ({"y_train": np.eye(6, dtype=int)}, "y_train has shape"),
    "labels as floats": ({"y_train": np.ones(6)}, "whole numbers from 0 to 3"),
    "labels as words": ({"y_train": np.array(["cat"] * 6)}, "whole numbers from 0 to 3"),
    "labels as booleans": ({"y_train": BOOLS}, "whole numbers from 0 to 3"),
    "a negative label": ({"y_train": np.array([0, 0, 0, 0, 0, -1])}, "whole numbers from 0 to 3"),
    "a label too high": ({"y_validation": np.array([0, 4])}, "whole numbers from 0 to 3"),
    "a huge label": ({"y_train": np.full(6, 2**64 - 1, np.uint64)}, "whole numbers from 0 to 3"),
    "not a number": ({"x_train": np.full((6, 3, 2), np.nan)}, "x_train holds values that are not finite"),
    "infinity": ({"x_validation": np.full((2, 3, 2), -np.inf)}, "x_validation holds values that are not finite"),
    "beyond float32": ({"x_train": np.full((6, 3, 2), 1e300)}, "x_train holds values that are not finite"),
    "complex inputs": ({"x_train": np.ones((6, 3, 2), complex)}, "expected real numbers"),
    "inputs as words": ({"x_train": np.full((6, 3, 2), "1.0")}, "expected real numbers"),
    "inputs as dates": ({"x_train": np.zeros((6, 3, 2), "datetime64[s]")}, "expected real numbers"),
    "a broken test split": ({"x_test": np.ones((1, 1)), "y_test": np.array([0])}, "x_test has shape"),
}


@pytest.mark.parametrize("name", CASES)
def test_arrays_that_do_not_fit_the_model_are_named(tmp_path: Path, name: str) -> None:
    changes, says = CASES[name]
    assert says in refused(write(tmp_path, **changes))


def test_pickled_objects_are_refused_without_unpickling(tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    path = tmp_path / "data.npz"
    np.savez(path, allow_pickle=True, **arrays(x_train=np.array([Bomb(sprung)], dtype=object)))
    assert "numpy.savez" in refused(path)
    assert not sprung.exists()


@pytest.mark.parametrize("allow_pickle", [False, True])
def test_a_single_array_is_refused(tmp_path: Path, *, allow_pickle: bool) -> None:
    sprung = tmp_path / "sprung"
    path = tmp_path / "data.npz"
    with path.open("wb") as file:
        np.save(file, np.array([Bomb(sprung)]) if allow_pickle else np.ones(3), allow_pickle=allow_pickle)
    assert "not an .npz file" in refused(path)
    assert not sprung.exists()


def test_a_missing_file_says_which_option_names_it(tmp_path: Path) -> None:
    assert "`data`" in refused(tmp_path / "missing.npz")


@pytest.mark.parametrize("content", [b"", b"PK", b"no zip at all", b"\x80\x04K\x01.", b"PK\x03\x04" + bytes(100)])
def test_a_file_that_is_no_npz_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "data.npz"
    path.write_bytes(content)
    assert "not an .npz file" in refused(path)


def test_a_folder_is_refused(tmp_path: Path) -> None:
    assert "not an .npz file" in refused(tmp_path)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_file_truncated_anywhere_is_refused(tmp_path: Path, save: Callable[..., None]) -> None:
    path = tmp_path / "data.npz"
    save(path, **arrays())
    data = path.read_bytes()
    for length in range(0, len(data), 41):
        path.write_bytes(data[:length])
        refused(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1, exclude_max=True), mask=st.integers(1, 255), compressed=st.booleans())
def test_a_damaged_file_is_read_or_refused(tmp_path: Path, place: float, mask: int, *, compressed: bool) -> None:
    path = tmp_path / "data.npz"
    (np.savez_compressed if compressed else np.savez)(path, **arrays())
    data = bytearray(path.read_bytes())
    data[int(place * len(data))] ^= mask
    path.write_bytes(bytes(data))
    try:
        loaded = load_dataset(path, MANIFEST)
    except DataError as error:
        assert "\n" not in str(error)  # noqa: PT017 - either is right
    else:
        assert np.isfinite(loaded.train.inputs).all()


def test_an_array_that_claims_a_terabyte_is_refused(tmp_path: Path) -> None:
    head = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000000,), }"
    array = io.BytesIO()
    array.write(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head) + 1) + head + b"\n")
    path = write(tmp_path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x_train.npy", array.getvalue())
        archive.writestr("y_train.npy", array.getvalue())
    assert "not an .npz file" in refused(path)


VALUES = msgspec.structs.replace(MANIFEST, num_classes=2, loss="mse")
LABELS = msgspec.structs.replace(MANIFEST, num_classes=2, loss="binary-cross-entropy")
SEQUENCE = msgspec.structs.replace(MANIFEST, positions=(5,))
TOKENS = msgspec.structs.replace(MANIFEST, num_tokens=8)


@pytest.mark.parametrize(
    ("manifest", "y", "dtype"),
    [
        (VALUES, np.arange(12.0).reshape(6, 2), np.float32),
        (VALUES, np.arange(12).reshape(6, 2), np.float32),
        (LABELS, np.eye(6, 2, dtype=bool), np.float32),
        (SEQUENCE, np.arange(30).reshape(6, 5) % 4, np.int64),
    ],
    ids=["values", "whole values", "labels", "a class for every position"],
)
def test_targets_come_as_the_loss_takes_them(
    tmp_path: Path, manifest: ModelManifest, y: np.ndarray, dtype: type
) -> None:
    data = load_dataset(write(tmp_path, y_train=y, y_validation=y[:2]), manifest)
    assert data.train.targets.dtype == dtype
    np.testing.assert_array_equal(data.train.targets, y)


@pytest.mark.parametrize(
    ("manifest", "changes", "says"),
    [
        (VALUES, {"y_train": np.ones(6)}, "y_train has shape (6,), model 'tiny' expects (6, 2)"),
        (VALUES, {"y_train": np.full((6, 2), np.nan)}, "y_train holds values that are not finite"),
        (VALUES, {"y_train": np.full((6, 2), 1e300)}, "y_train holds values that are not finite"),
        (VALUES, {"y_train": np.full((6, 2), "cat")}, "y_train holds <U3, expected real numbers"),
        (LABELS, {"y_train": np.full((6, 2), 2)}, "y_train must hold labels between 0 and 1"),
        (SEQUENCE, {"y_train": np.full((6, 5), 4)}, "y_train must hold whole numbers from 0 to 3"),
        (TOKENS, {"x_train": np.full((6, 3, 2), 8)}, "x_train must hold whole numbers from 0 to 7"),
        (TOKENS, {"x_train": np.full((6, 3, 2), 0.5)}, "x_train must hold whole numbers from 0 to 7"),
        (TOKENS, {"x_train": np.full((6, 3, 2), -1)}, "x_train must hold whole numbers from 0 to 7"),
    ],
)
def test_what_the_loss_or_an_embedding_cannot_take_is_named(
    tmp_path: Path, manifest: ModelManifest, changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(DataError) as error:
        load_dataset(write(tmp_path, **changes), manifest)
    assert says in str(error.value)
