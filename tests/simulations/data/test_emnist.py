from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from simulations.data.emnist import load_emnist
from wire.errors import ConfigError, DataError

WriteIdx = Callable[[Path, np.ndarray], None]


def make(folder: Path, write_idx: WriteIdx, division: str, labels: np.ndarray, suffix: str) -> np.ndarray:
    folder.mkdir(parents=True)
    images = np.random.default_rng(0).integers(0, 256, (len(labels), 28, 28), dtype=np.uint8)
    for part in ("train", "test"):
        write_idx(folder / f"emnist-{division}-{part}-images-idx3-ubyte{suffix}", images)
        write_idx(folder / f"emnist-{division}-{part}-labels-idx1-ubyte{suffix}", labels)
    return images


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("place", ["EMNIST/raw", "raw", "."])
def test_torchvisions_folder_is_read_and_pictures_are_upright(
    tmp_path: Path, write_idx: WriteIdx, suffix: str, place: str
) -> None:
    images = make(tmp_path / "data" / place, write_idx, "byclass", np.arange(62), suffix)
    pool = load_emnist(tmp_path / "data")
    assert np.array_equal(pool.x_train, images.transpose(0, 2, 1))
    assert np.array_equal(pool.y_test, np.arange(62))
    assert pool.num_classes == 62


def test_letters_count_from_zero(tmp_path: Path, write_idx: WriteIdx) -> None:
    make(tmp_path / "raw", write_idx, "letters", np.arange(1, 27), ".gz")
    assert load_emnist(tmp_path, "letters").y_train.tolist() == list(range(26))


def test_what_is_missing_or_unknown_is_refused(tmp_path: Path, write_idx: WriteIdx) -> None:
    with pytest.raises(DataError, match=r"expected emnist-byclass-train-images-idx3-ubyte.gz in"):
        load_emnist(tmp_path)
    with pytest.raises(ConfigError, match="no division 'byname'"):
        load_emnist(tmp_path, "byname")
    make(tmp_path / "raw", write_idx, "digits", np.array([10]), "")
    with pytest.raises(DataError, match="10 classes of 'digits'"):
        load_emnist(tmp_path, "digits")
