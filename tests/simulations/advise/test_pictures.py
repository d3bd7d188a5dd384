"""Pictures in folders: with Pillow, of which a stand-in is enough here, and without."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Self

import numpy as np
import pytest
from torch import nn

from export.models import TrainableModel
from simulations.advise.reading import DeviceSource, read_devices
from simulations.engines.model import SimulatedModel, simulate_model
from wire.errors import ConfigError, DataError


def test_pictures_for_a_model_that_takes_none_are_refused(tmp_path: Path, linear: SimulatedModel) -> None:
    (tmp_path / "kitchen" / "cat").mkdir(parents=True)
    (tmp_path / "kitchen" / "cat" / "1.png").touch()
    with pytest.raises(ConfigError, match=r"pictures need a model with inputs \(1 or 3, height, width\)"):
        read_devices(DeviceSource(tmp_path), "linear", linear)


def test_pictures_without_pillow_say_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    for device in ("kitchen", "attic"):
        for name in ("cat", "dog"):
            (tmp_path / device / name).mkdir(parents=True)
            (tmp_path / device / name / "1.png").touch()
    module = nn.Sequential()
    module.add_module("flat", nn.Flatten())
    module.add_module("head", nn.Linear(16, 2))
    model = simulate_model(TrainableModel(module, (1, 4, 4), 2))
    with pytest.raises(ConfigError, match="pip install pillow"):
        read_devices(DeviceSource(tmp_path), "mine", model)


class FakePicture:
    """As much of a picture as Pillow would show: a file's first byte fills it."""

    DecompressionBombError = ValueError

    def __init__(self, path: Path) -> None:
        raw = path.read_bytes()
        if not raw:
            raise OSError("no picture")
        self.pixels = np.full((1, 1), raw[0], dtype=np.uint8)

    open = classmethod(lambda cls, path: cls(path))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def convert(self, mode: str) -> FakePicture:
        assert mode == "L"
        return self

    def resize(self, size: tuple[int, int]) -> FakePicture:
        self.pixels = np.full(size[::-1], self.pixels[0, 0], dtype=np.uint8)
        return self

    def __array__(self, dtype: type, copy: object = None) -> np.ndarray:
        del copy
        return self.pixels.astype(dtype)


@pytest.fixture
def gray() -> SimulatedModel:
    """Pictures of two rows and three columns, two classes."""
    module = nn.Sequential()
    module.add_module("flat", nn.Flatten())
    module.add_module("head", nn.Linear(6, 2))
    return simulate_model(TrainableModel(module, (1, 2, 3), 2))


@pytest.fixture
def albums(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two devices with ten dogs; only the kitchen's has cats, too."""
    monkeypatch.setitem(sys.modules, "PIL.Image", FakePicture)
    for device, name in (("kitchen", "cat"), ("kitchen", "dog"), ("attic", "dog")):
        folder = tmp_path / "albums" / device / name
        folder.mkdir(parents=True)
        for number in range(10):
            (folder / f"{number}.png").write_bytes(bytes([25 * number + 5]))
    return tmp_path / "albums"


def test_pictures_are_split_class_by_class_in_the_order_of_their_names(albums: Path, gray: SimulatedModel) -> None:
    data = read_devices(DeviceSource(albums), "gray", gray)
    kitchen, attic = data.federation.clients["kitchen"], data.federation.clients["attic"]
    assert "classes: 0 = cat, 1 = dog" in data.notes
    assert kitchen.test is not None
    assert [split.targets.tolist() for split in kitchen if split] == [[0] * 6 + [1] * 6, [0, 0, 1, 1], [0, 0, 1, 1]]
    assert attic.train.targets.tolist() == [1] * 6
    assert kitchen.test.inputs.shape == (4, 1, 2, 3)
    assert kitchen.test.inputs[0] == pytest.approx(205 / 255)
    assert kitchen.train.inputs.max() <= 1


def test_a_broken_picture_is_refused_by_name(albums: Path, gray: SimulatedModel) -> None:
    (albums / "attic" / "dog" / "3.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"attic/dog/3\.png is not a picture"):
        read_devices(DeviceSource(albums), "gray", gray)
