import builtins
import importlib
import struct
import zlib
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from simulations.data.image_folders import load_image_folder, load_tiny_imagenet
from wire.errors import ConfigError, DataError


@pytest.fixture
def pillow() -> None:
    pytest.importorskip("PIL.Image", reason="needs Pillow: pip install pillow")


def write_png(path: Path, color: tuple[int, int, int], side: int) -> None:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    path.parent.mkdir(parents=True, exist_ok=True)
    rows = (b"\0" + bytes(color) * side) * side
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(png)


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    home = tmp_path / "tiny-imagenet-200"
    for label, name in enumerate(("n01443537", "n01629819")):
        for number in range(3):
            write_png(home / "train" / name / "images" / f"{name}_{number}.JPEG", (label, number, 7), 64)
        write_png(home / "val" / "images" / f"val_{label}.JPEG", (label, 9, 9), 64)
    lines = "val_1.JPEG\tn01629819\t0\t0\t62\t57\nval_0.JPEG\tn01443537\t0\t0\t62\t57\n"
    (home / "val" / "val_annotations.txt").write_text(lines, encoding="ascii")
    return tmp_path


@pytest.mark.usefixtures("pillow")
def test_tiny_imagenet_takes_its_tests_from_the_annotated_part(tiny: Path) -> None:
    pool = load_tiny_imagenet(tiny)
    assert pool.x_train.shape == (6, 3, 64, 64)
    assert pool.y_train.tolist() == [0, 0, 0, 1, 1, 1]
    assert pool.x_train[4, :, 0, 0].tolist() == [1, 1, 7]
    assert pool.y_test.tolist() == [1, 0]
    assert pool.x_test[:, 0, 5, 5].tolist() == [1, 0]


@pytest.mark.usefixtures("pillow")
def test_a_folder_of_pictures_by_class_is_scaled_to_one_size(tmp_path: Path) -> None:
    for part, side in (("train", 8), ("val", 5)):
        for label, name in enumerate(("cat", "dog")):
            write_png(tmp_path / part / name / "1.png", (100 * label, 50, 0), side)
    (tmp_path / "train" / "cat" / "notes.txt").write_text("no picture", encoding="ascii")
    pool = load_image_folder(tmp_path, 4)
    assert pool.x_train.shape == pool.x_test.shape == (2, 3, 4, 4)
    assert pool.num_classes == 2
    assert np.array_equal(pool.x_test[1, :, 2, 2], [100, 50, 0])


@pytest.mark.usefixtures("pillow")
def test_a_broken_picture_is_named(tiny: Path) -> None:
    broken = tiny / "tiny-imagenet-200" / "val" / "images" / "val_0.JPEG"
    broken.write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"val_0.JPEG is not a picture"):
        load_tiny_imagenet(tiny)


@pytest.mark.parametrize("line", ["val_0.JPEG\tn99\t0", "../secret.png\tn01443537\t0", "\t", "x"])
def test_annotations_that_lead_elsewhere_are_refused(tiny: Path, line: str) -> None:
    (tiny / "tiny-imagenet-200" / "val" / "val_annotations.txt").write_text(line, encoding="ascii")
    with pytest.raises(DataError, match="names a picture or class that is not there"):
        load_tiny_imagenet(tiny)


def test_missing_folders_say_what_was_expected_where(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected .*/train/n\*/images"):
        load_tiny_imagenet(tmp_path)
    with pytest.raises(DataError, match=r"expected a folder .*train"):
        load_image_folder(tmp_path, 8)
    (tmp_path / "train" / "cat").mkdir(parents=True)
    (tmp_path / "test").mkdir()
    with pytest.raises(DataError, match="a part without pictures"):
        load_image_folder(tmp_path, 8)
    with pytest.raises(ConfigError, match="side must be at least 1"):
        load_image_folder(tmp_path, 0)


def test_without_pillow_the_error_says_what_to_install(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str, *_: Any) -> ModuleType:
        raise builtins.ImportError(name)

    monkeypatch.setattr(importlib, "import_module", refuse)
    with pytest.raises(ConfigError, match="pip install pillow"):
        load_tiny_imagenet(tiny)
