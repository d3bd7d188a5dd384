"""Every form of data gives the same devices; what is wrong is refused or reported with a name."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from simulations.advise import arrays
from simulations.advise.reading import DeviceData, DeviceSource, read_devices
from simulations.advise.tables import Columns
from simulations.engines.model import SimulatedModel
from wire.errors import ConfigError, DataError

SaveRows = Callable[..., Path]

COLUMNS = Columns("device", "label", ("time",))


@pytest.fixture
def read(linear: SimulatedModel) -> Callable[..., DeviceData]:
    def read(path: Path, columns: Columns | None = None, limit: int | None = None) -> DeviceData:
        return read_devices(DeviceSource(path, columns, limit), "linear", linear)

    return read


Read = Callable[..., DeviceData]


def table(path: Path, *, num_rows: int = 10, label: Callable[[int], object] = lambda row: row % 3) -> Path:
    lines = ["time,device,a,b,c,d,label"]
    for row in range(num_rows):
        lines += [f"10:0{row},{device},{row},0,0,0,{label(row)}" for device in ("kitchen", "attic")]
    path.write_text("\n".join(lines))
    return path


def by_file(folder: Path, save_rows: SaveRows) -> DeviceSource:
    for device in ("kitchen", "attic"):
        save_rows(folder / f"{device}.npz")
    return DeviceSource(folder)


def by_folder(folder: Path, save_rows: SaveRows) -> DeviceSource:
    x = np.zeros((10, 4), dtype=np.float32)
    x[:, 0] = np.arange(10)
    for device in ("kitchen", "attic"):
        save_rows(folder / device / "day1.npz", x=x[:4], y=np.arange(4) % 3)
        save_rows(folder / device / "day2.npz", x=x[4:], y=np.arange(4, 10) % 3)
    return DeviceSource(folder)


def by_table(folder: Path, save_rows: SaveRows) -> DeviceSource:
    del save_rows
    return DeviceSource(table(folder / "rows.csv"), COLUMNS)


def by_array(folder: Path, save_rows: SaveRows) -> DeviceSource:
    x = np.zeros((20, 4), dtype=np.float32)
    x[:, 0] = np.repeat(np.arange(10), 2)
    device = np.array(["kitchen", "attic"] * 10)
    return DeviceSource(save_rows(folder / "all.npz", x=x, y=x[:, 0] % 3, device=device))


@pytest.mark.parametrize("form", [by_file, by_folder, by_table, by_array])
def test_all_forms_of_the_same_rows_give_the_same_devices(
    form: Callable[[Path, SaveRows], DeviceSource], tmp_path: Path, save_rows: SaveRows, linear: SimulatedModel
) -> None:
    data = read_devices(form(tmp_path, save_rows), "linear", linear)
    assert list(data.federation.clients) == ["attic", "kitchen"]
    for device in data.federation.clients.values():
        assert device.test is not None
        assert device.train.inputs[:, 0].tolist() == [0, 1, 2, 3, 4, 5]
        assert device.validation.inputs[:, 0].tolist() == [6, 7]
        assert device.test.inputs[:, 0].tolist() == [8, 9]
        assert device.test.targets.tolist() == [2, 0]
    assert data.notes == ()


def test_words_for_labels_are_numbered_and_told(tmp_path: Path, read: Read) -> None:
    words = ["walk", "run", "sit"]
    data = read(table(tmp_path / "rows.csv", label=lambda row: words[row % 3]), COLUMNS)
    assert data.notes == ("classes: 0 = run, 1 = sit, 2 = walk",)
    assert data.federation.clients["attic"].train.targets.tolist() == [2, 0, 1, 2, 0, 1]


def test_a_limit_takes_devices_evenly_and_tells_how_many_there_were(
    tmp_path: Path, save_rows: SaveRows, read: Read
) -> None:
    for number in range(9):
        save_rows(tmp_path / f"device-{number}.npz")
    data = read(tmp_path, limit=3)
    assert list(data.federation.clients) == ["device-0", "device-3", "device-6"]
    assert data.num_found == 9


@pytest.mark.parametrize("num_rows", [0, 1, 4])
def test_a_device_with_too_few_examples_is_left_out_by_name(
    num_rows: int, tmp_path: Path, save_rows: SaveRows, read: Read
) -> None:
    for name in ("attic", "kitchen"):
        save_rows(tmp_path / f"{name}.npz")
    save_rows(tmp_path / "shed.npz", num_rows)
    data = read(tmp_path)
    assert list(data.federation.clients) == ["attic", "kitchen"]
    assert data.notes == (f"shed is left out: it has {num_rows} examples, and needs 5 or more",)


def test_rows_sorted_by_class_are_told_of(tmp_path: Path, save_rows: SaveRows, read: Read) -> None:
    for name in ("attic", "kitchen"):
        save_rows(tmp_path / f"{name}.npz", y=np.arange(10) // 4)
    assert any("2 of 2 devices are judged by classes that they never train on" in it for it in read(tmp_path).notes)


X = np.zeros((10, 4), dtype=np.float32)


@pytest.mark.parametrize(
    ("broken", "told"),
    [
        ({"y": np.arange(10)}, "kitchen.* labels from 0 to 5; they must be whole numbers from 0 to 2"),
        ({"y": np.arange(10) - 1}, "kitchen.* labels from -1 to"),
        ({"y": np.arange(10) / 2}, "kitchen.*not all whole numbers"),
        ({"y": np.full(10, np.nan)}, "kitchen.*not all whole numbers"),
        ({"y": np.zeros(9, dtype=np.int64)}, "kitchen.*one label an example"),
        ({"x": np.full((10, 4), np.nan)}, "kitchen.* not finite"),
        ({"x": np.full((10, 4), 1e300)}, "kitchen.* not finite"),
        ({"x": np.zeros((10, 2, 2))}, r"kitchen.* shape \(2, 2\), and the model takes \(4,\)"),
        ({"x": np.array(["a"] * 10)}, "kitchen.*expected real numbers"),
    ],
)
def test_broken_arrays_are_refused_with_the_device(
    broken: dict[str, np.ndarray], told: str, tmp_path: Path, save_rows: SaveRows, read: Read
) -> None:
    save_rows(tmp_path / "attic.npz")
    save_rows(tmp_path / "kitchen.npz", **broken)
    with pytest.raises(DataError, match=told):
        read(tmp_path)


def test_one_device_alone_is_refused(tmp_path: Path, save_rows: SaveRows, read: Read) -> None:
    save_rows(tmp_path / "kitchen.npz")
    with pytest.raises(DataError, match="gives 1 device with enough examples"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("10:00,kitchen,1,2,,4,0", "line 2: column 'c' is empty"),
        ("10:00,kitchen,1,2,nan,4,0", "line 2: column 'c' holds nan"),
        ("10:00,kitchen,1,2,1e99,4,0", "line 2: column 'c' holds 1e99"),
        ("10:00,kitchen,1,2,warm,4,0", "'warm', which is no number.*--ignore-column c"),
        ("10:00,,1,2,3,4,0", "line 2: 'device' is empty"),
        ("10:00,kitchen,1,2,3,4,", "line 2: 'label' is empty"),
        ("10:00,kitchen,1,2,3,4", "line 2 has 6 values"),
    ],
)
def test_a_broken_line_of_a_table_is_refused_with_its_number(line: str, told: str, tmp_path: Path, read: Read) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(f"time,device,a,b,c,d,label\n{line}\n")
    with pytest.raises(DataError, match=told):
        read(path, COLUMNS)


@pytest.mark.parametrize(
    ("columns", "kind", "told"),
    [
        (None, ConfigError, "needs --device-column and --label-column"),
        (Columns("room", "label"), ConfigError, "no column 'room'; it has time, device"),
        (Columns("device", "device"), ConfigError, "both the device and the label"),
        (Columns("device", "label"), DataError, r"has 5 feature columns \(time, a, b, c, d\), and the model takes 4"),
    ],
)
def test_columns_that_do_not_fit_are_refused(
    columns: Columns | None, kind: type[Exception], told: str, tmp_path: Path, read: Read
) -> None:
    with pytest.raises(kind, match=told):
        read(table(tmp_path / "rows.csv"), columns)


@pytest.mark.parametrize("raw", [b"", b"a,b\n\xff\xfe", b'a,"b\nc'])
def test_a_file_that_is_no_table_is_refused(raw: bytes, tmp_path: Path, read: Read) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(raw)
    with pytest.raises((DataError, ConfigError), match=re.escape(str(path))):
        read(path, COLUMNS)


def test_large_features_are_told_of(tmp_path: Path, read: Read) -> None:
    path = table(tmp_path / "rows.csv")
    path.write_text(path.read_text().replace(",0,0,0,", ",0,1013,0,"))
    assert any("c is 912 on average" in note for note in read(path, COLUMNS).notes)


def test_a_file_without_devices_says_what_it_needs(tmp_path: Path, save_rows: SaveRows, read: Read) -> None:
    with pytest.raises(DataError, match="no array `device`"):
        read(save_rows(tmp_path / "all.npz"))
    with pytest.raises(DataError, match="for each of the 10 rows"):
        read(save_rows(tmp_path / "all.npz", device=np.array(["kitchen"] * 9)))


def test_what_is_no_data_is_refused(tmp_path: Path, save_rows: SaveRows, read: Read) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(DataError, match="neither a folder nor"):
        read(tmp_path / "notes.txt")
    with pytest.raises(DataError, match="there is nothing at"):
        read(tmp_path / "nowhere")
    with pytest.raises(DataError, match="is empty"):
        read(tmp_path)
    (tmp_path / "all.npz").write_bytes(b"PK not really")
    with pytest.raises(DataError, match=r"not an \.npz file"):
        read(tmp_path / "all.npz")
    save_rows(tmp_path / "kitchen" / "day.npz")
    with pytest.raises(DataError, match="files and folders"):
        read(tmp_path)


def test_data_beyond_the_memory_of_a_trial_is_refused_before_it_is_read(
    tmp_path: Path, save_rows: SaveRows, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_rows(tmp_path / "kitchen.npz")
    save_rows(tmp_path / "attic.npz")
    monkeypatch.setattr(arrays, "MOST_BYTES", 100)
    with pytest.raises(DataError, match=r"attic.*unpacks to"):
        read(tmp_path)


def test_a_device_whose_name_no_text_can_hold_is_refused(tmp_path: Path, save_rows: SaveRows, read: Read) -> None:
    save_rows(tmp_path / "kitchen.npz")
    save_rows(tmp_path / "k\udcff.npz")
    with pytest.raises(DataError, match="rename it"):
        read(tmp_path)
