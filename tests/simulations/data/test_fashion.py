from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from simulations.data.fashion import load_fashion, mean_pool
from wire.errors import DataError

WriteIdx = Callable[[Path, np.ndarray], None]


def test_the_four_files_become_images_and_classes(made_fashion: Path) -> None:
    images = load_fashion(made_fashion)
    assert images.x_train.shape == (4000, 28, 28)
    assert images.x_test.shape == (2500, 28, 28)
    assert (images.x_train.dtype, images.y_train.dtype) == (np.uint8, np.int64)
    assert np.array_equal(images.y_test, np.arange(2500) % 10)


def test_the_real_images_are_60000_and_10000_in_ten_equal_classes(real_fashion: Path) -> None:
    images = load_fashion()
    assert real_fashion.is_dir()
    assert np.array_equal(np.bincount(images.y_train), np.full(10, 6000))
    assert np.array_equal(np.bincount(images.y_test), np.full(10, 1000))
    assert images.x_train.mean() / 255 == pytest.approx(0.2860, abs=1e-4)  # the mean that everyone normalizes with


def test_a_missing_file_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train-images.*is missing.*apt-get install dataset-fashion-mnist"):
        load_fashion(tmp_path)


@pytest.mark.parametrize(("shape", "label"), [((4, 27, 28), 0), ((4, 28, 28), 10)])
def test_other_images_are_refused(tmp_path: Path, write_idx: WriteIdx, shape: tuple[int, ...], label: int) -> None:
    for part in ("train", "t10k"):
        write_idx(tmp_path / f"{part}-images-idx3-ubyte.gz", np.zeros(shape, dtype=np.uint8))
        write_idx(tmp_path / f"{part}-labels-idx1-ubyte.gz", np.full(4, label))
    with pytest.raises(DataError, match="28x28 images of 10 classes"):
        load_fashion(tmp_path)


def test_pooling_keeps_the_mean_of_every_square() -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 28, 28), dtype=np.uint8)
    pooled = mean_pool(images)
    assert pooled.shape == (3, 14, 14)
    assert pooled[1, 2, 3] == images[1, 4:6, 6:8].mean()
    assert pooled.mean() == pytest.approx(images.mean(), rel=1e-5)
