import itertools
import pickle
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulations.data.watch import (
    EXERCISES,
    INPUT_SHAPE,
    DeviceData,
    load_recordings,
    load_watch_devices,
    save_device_data,
    time_blocks,
    watch_file,
)
from wire.errors import DataError, StoreError

SPLITS = ("train", "validation", "test")
GAP = 100
INSTALL = re.escape("pip install --no-deps seglearn==1.2.5")


@pytest.fixture(scope="module")
def devices() -> tuple[DeviceData, ...]:
    return load_watch_devices(seed=0)


def split_of(device: DeviceData, name: str) -> tuple[np.ndarray, np.ndarray]:
    return getattr(device, f"x_{name}"), getattr(device, f"y_{name}")


@given(st.integers(867, 5000), st.integers(0, 2**32 - 1))
def test_a_gap_of_one_window_lies_between_blocks_and_no_sample_is_in_two(num_samples: int, seed: int) -> None:
    blocks = time_blocks(num_samples, np.random.default_rng(seed))
    ordered = sorted(blocks.values(), key=lambda block: block.start)
    assert ordered[0].start == 0
    assert num_samples - 3 <= ordered[-1].stop <= num_samples
    assert [after.start - before.stop for before, after in itertools.pairwise(ordered)] == [GAP, GAP]
    usable = num_samples - 2 * GAP
    shares = [len(blocks[name]) / usable for name in SPLITS]
    assert shares == pytest.approx([0.55, 0.15, 0.30], abs=1 / usable)


def test_the_seed_draws_which_block_comes_first() -> None:
    firsts = {next(iter(time_blocks(1000, np.random.default_rng(seed)))) for seed in range(20)}
    assert firsts == set(SPLITS)


def test_a_recording_without_room_for_a_validation_window_is_refused() -> None:
    with pytest.raises(DataError, match="validation block"):
        time_blocks(850, np.random.default_rng(0))


def test_twenty_devices_are_ten_people_with_two_arms(devices: tuple[DeviceData, ...]) -> None:
    expected = [f"person-{person:02d}-{side}" for person in range(1, 11) for side in ("left", "right")]
    assert [device.device_id for device in devices] == expected


def test_the_windows_are_as_many_as_promised(devices: tuple[DeviceData, ...]) -> None:
    counts = {name: sum(len(split_of(device, name)[1]) for device in devices) for name in SPLITS}
    assert counts == {"train": 2167, "validation": 438, "test": 1085}


@pytest.mark.parametrize("name", SPLITS)
def test_every_split_of_every_device_is_ready_to_train_on(devices: tuple[DeviceData, ...], name: str) -> None:
    for device in devices:
        x, y = split_of(device, name)
        assert x.shape == (len(y), *INPUT_SHAPE)
        assert (x.dtype, y.dtype) == (np.float32, np.int64)
        assert x.flags.c_contiguous
        assert np.isfinite(x).all()
        assert set(y.tolist()) == set(range(len(EXERCISES)))


def test_no_sample_is_in_two_splits(devices: tuple[DeviceData, ...]) -> None:
    for device in devices:
        seen = {
            name: {column.tobytes() for window in split_of(device, name)[0] for column in window.T} for name in SPLITS
        }
        assert not seen["train"] & seen["test"]
        assert not seen["train"] & seen["validation"]
        assert not seen["validation"] & seen["test"]


def test_every_window_is_a_stretch_of_its_own_recording() -> None:
    recordings = [r for r in load_recordings(watch_file()) if r.device_id == "person-03-left" and r.label == 2]
    device = next(d for d in load_watch_devices(seed=5) if d.device_id == "person-03-left")
    windows = device.x_test[device.y_test == 2]
    stretches = np.lib.stride_tricks.sliding_window_view(recordings[0].signal, 100, axis=0)
    assert len(recordings) == 1
    assert len(windows) >= 1
    assert all((stretches == window).all(axis=(1, 2)).any() for window in windows)


def test_gravity_is_about_one() -> None:
    pendulum = load_recordings(watch_file())[0].signal
    assert np.linalg.norm(pendulum[:, :3], axis=1).mean() == pytest.approx(1, abs=0.3)


def test_the_seed_decides_the_split(devices: tuple[DeviceData, ...]) -> None:
    again, other = load_watch_devices(seed=0), load_watch_devices(seed=1)
    assert all(np.array_equal(a.x_train, b.x_train) for a, b in zip(devices, again, strict=True))
    assert not all(np.array_equal(a.x_test, b.x_test) for a, b in zip(devices, other, strict=True))


class Intruder:
    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return (Path.touch, (Path("intruded"),))


def test_an_altered_file_is_refused_before_it_is_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    altered = tmp_path / "watch_dataset.npy"
    np.save(altered, np.array(Intruder(), dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match=INSTALL):
        load_recordings(altered)
    assert not Path("intruded").exists()
    pickle.loads(pickle.dumps(Intruder()))  # noqa: S301 - our own: the trap would have sprung
    assert Path("intruded").exists()


def test_a_file_that_cannot_be_read_is_one_line_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"No such file.*pip install") as caught:
        load_recordings(tmp_path / "watch_dataset.npy")
    assert "\n" not in str(caught.value)


def test_without_seglearn_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(DataError, match=INSTALL):
        watch_file()


def test_seglearn_is_never_imported(devices: tuple[DeviceData, ...]) -> None:
    assert devices
    assert "seglearn" not in sys.modules


def test_saved_data_comes_back_without_pickles(devices: tuple[DeviceData, ...], tmp_path: Path) -> None:
    path = tmp_path / "data"
    save_device_data(devices[0], path)
    with np.load(path, allow_pickle=False) as arrays:
        assert set(arrays.files) == {f"{axis}_{name}" for axis in "xy" for name in SPLITS}
        for key in arrays.files:
            assert np.array_equal(arrays[key], getattr(devices[0], key))
            assert arrays[key].dtype == getattr(devices[0], key).dtype


def test_a_disk_that_refuses_is_a_store_error(devices: tuple[DeviceData, ...], tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot write"):
        save_device_data(devices[0], tmp_path / "missing" / "data.npz")
