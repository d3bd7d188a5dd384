from pathlib import Path

import numpy as np
import pytest

from simulations.data.cifar import load_cifar10, load_cifar100
from wire.errors import DataError


def write(path: Path, labels: np.ndarray) -> np.ndarray:
    images = np.random.default_rng(len(labels)).integers(0, 256, (len(labels), 3072), dtype=np.uint8)
    path.write_bytes(np.concatenate([labels.astype(np.uint8), images], axis=1).tobytes())
    return images


@pytest.fixture
def cifar10(tmp_path: Path) -> Path:
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    for name in [*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"]:
        write(folder / name, np.arange(20)[:, None] % 10)
    return tmp_path


def test_the_five_batches_become_one_pool(cifar10: Path) -> None:
    pool = load_cifar10(cifar10)
    assert pool.x_train.shape == (100, 3, 32, 32)
    assert pool.x_test.shape == (20, 3, 32, 32)
    assert pool.num_classes == 10
    assert np.array_equal(pool.y_test, np.arange(20) % 10)
    assert np.array_equal(load_cifar10(cifar10 / "cifar-10-batches-bin").x_test, pool.x_test)


def test_the_planes_are_red_green_and_blue_row_by_row(cifar10: Path) -> None:
    raw = (cifar10 / "cifar-10-batches-bin" / "test_batch.bin").read_bytes()
    assert load_cifar10(cifar10).x_test[0, 2, 1, 5] == raw[1 + 2 * 1024 + 32 + 5]


def test_cifar100_has_the_fine_classes(tmp_path: Path) -> None:
    for name in ("train.bin", "test.bin"):
        write(tmp_path / name, np.stack([np.zeros(100), np.arange(100)], axis=1))
    pool = load_cifar100(tmp_path)
    assert np.array_equal(pool.y_train, np.arange(100))
    assert pool.num_classes == 100


@pytest.mark.parametrize("pickled", ["cifar-10-batches-py", "data/cifar-10-batches-py"])
def test_the_pickled_version_is_not_opened(tmp_path: Path, pickled: str) -> None:
    folder = tmp_path / pickled
    folder.mkdir(parents=True)
    (folder / "data_batch_1").write_bytes(b"cposix\nsystem\n.")
    for given in (folder, folder.parent):
        with pytest.raises(DataError, match=r"pickle and could run anything.*fetch the binary version"):
            load_cifar10(given)


def test_a_missing_file_says_what_was_expected_where(tmp_path: Path, cifar10: Path) -> None:
    with pytest.raises(DataError, match=r"expected cifar-100-binary/test.bin in"):
        load_cifar100(tmp_path)
    (cifar10 / "cifar-10-batches-bin" / "data_batch_3.bin").unlink()
    with pytest.raises(DataError, match=r"data_batch_3.bin .No such file"):
        load_cifar10(cifar10)


@pytest.mark.parametrize(
    ("content", "why"), [(b"", "0 bytes"), (b"x" * 3072, "no records"), (b"\x0a" * 3073, "class 10")]
)
def test_broken_records_are_refused(cifar10: Path, content: bytes, why: str) -> None:
    (cifar10 / "cifar-10-batches-bin" / "data_batch_1.bin").write_bytes(content)
    with pytest.raises(DataError, match=why):
        load_cifar10(cifar10)
