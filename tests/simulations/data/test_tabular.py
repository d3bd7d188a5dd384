import shutil
from pathlib import Path

import numpy as np
import pytest

from simulations.data.tabular import TABLES, load_table
from wire.errors import DataError


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_scaled_and_its_last_rows_are_for_tests(made_mlbench: Path, name: str) -> None:
    known, table = TABLES[name], load_table(name, made_mlbench)
    assert table.x_train.shape == (known.num_rows - known.num_test, known.num_features)
    assert table.x_test.shape == (known.num_test, known.num_features)
    assert (table.x_train.dtype, table.y_train.dtype) == (np.float32, np.int64)
    assert np.array_equal(np.concatenate([table.y_train, table.y_test]), np.arange(known.num_rows) % known.num_classes)
    assert table.x_train.min() == pytest.approx(-known.center / known.scale)


@pytest.mark.parametrize(
    ("name", "train", "test"),
    [
        ("satellite", [1072, 479, 961, 415, 470, 1038], [461, 224, 397, 211, 237, 470]),  # UCI's sat.trn and sat.tst
        ("shuttle", [34108, 37, 132, 6748, 2458, 6, 11], [11478, 13, 39, 2155, 809, 4, 2]),  # shuttle.trn and .tst
    ],
)
def test_the_real_tables_are_divided_as_uci_divides_them(
    real_mlbench: Path, name: str, train: list[int], test: list[int]
) -> None:
    table = load_table(name)
    assert real_mlbench.is_dir()
    assert np.bincount(table.y_train).tolist() == train
    assert np.bincount(table.y_test).tolist() == test


def test_the_real_letters_are_within_their_scale(real_mlbench: Path) -> None:
    table = load_table("letter", real_mlbench)
    assert (table.x_train.min(), table.x_train.max()) == (-1, 1)
    assert np.bincount(table.y_train, minlength=26).min() > 500


def test_a_missing_table_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Satellite.rda is missing.*apt-get install.*r-cran-mlbench"):
        load_table("satellite", tmp_path)


def test_another_data_frame_of_that_name_is_refused(tmp_path: Path, small_frame: bytes, made_mlbench: Path) -> None:
    (tmp_path / "Shuttle.rda").write_bytes(small_frame.replace(b"\0\0\0\5Small", b"\0\0\0\7Shuttle"))
    with pytest.raises(DataError, match="does not hold 58000 examples"):
        load_table("shuttle", tmp_path)
    shutil.copy(made_mlbench / "Satellite.rda", tmp_path / "Shuttle.rda")
    with pytest.raises(DataError, match="no data frame 'Shuttle'"):
        load_table("shuttle", tmp_path)
