import sys
from pathlib import Path

import numpy as np
import pytest

from simulations.data.digits import digits_file, load_digits
from wire.errors import DataError


@pytest.fixture
def installed() -> Path:
    try:
        return digits_file()
    except DataError:
        pytest.skip("needs the digits: pip install --no-deps scikit-learn")


def test_the_digits_are_1797_and_no_package_is_imported(installed: Path) -> None:
    images, labels = load_digits(installed.parent)
    assert images.shape == (1797, 8, 8)
    assert (images.dtype, labels.dtype) == (np.float32, np.int64)
    assert (images.min(), images.max()) == (0, 1)
    assert np.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert "sklearn" not in sys.modules


def test_another_file_of_that_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "digits.csv.gz").write_bytes(b"something else")
    with pytest.raises(DataError, match="not scikit-learn's file of digits"):
        load_digits(tmp_path)


def test_without_the_file_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"No such file.*pip install --no-deps scikit-learn"):
        load_digits(tmp_path)
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.delitem(sys.modules, "sklearn", raising=False)
    with pytest.raises(DataError, match="pip install --no-deps scikit-learn"):
        load_digits()
