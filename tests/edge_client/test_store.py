"""A device's disk gives back the last whole generation, rises its session number, and names what it refuses."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_client.generation import Generation, Traffic, Upload
from edge_client.store import MAGIC, SLOTS, DeviceStore
from wire.digest import content_digest
from wire.durable import UNFINISHED
from wire.errors import StoreError
from wire.manifest import LayerSpec, ModelManifest, ParameterSpec, encode_manifest
from wire.messages import Measurement, Summary

DIGEST = "a" * 64
MEASUREMENT = Measurement(0.5, 0.5, 10)
MANIFEST = ModelManifest("tiny", (LayerSpec("fc1", (ParameterSpec("fc1.weight", (2,)),)),), (2,), 2, {})


def generation(round_number: int, epoch: int = 1) -> Generation:
    summary = Summary(
        plan=DIGEST,
        epoch=epoch,
        round_number=round_number,
        num_examples=10,
        num_steps=1,
        train_loss=0.5,
        layers={},
        before=MEASUREMENT,
        after=MEASUREMENT,
    )
    return Generation(
        epoch=epoch,
        round_number=round_number,
        plan=DIGEST,
        model_id=DIGEST,
        own={"fc1": bytes(8 * round_number)},
        residuals={},
        upload=Upload(summary, {DIGEST: b"values"}, 1024),
    )


def newest_slot(folder: Path) -> Path:
    return max((folder / slot for slot in SLOTS), key=lambda path: path.stat().st_size if path.exists() else -1)


def test_a_new_device_has_no_generation(tmp_path: Path) -> None:
    assert DeviceStore(tmp_path / "deep" / "folder").load_generation() is None


def test_the_newest_generation_comes_back_after_every_start(tmp_path: Path) -> None:
    for round_number in range(1, 6):
        store = DeviceStore(tmp_path)
        last = store.load_generation()
        assert (last.round_number if last else 0) == round_number - 1
        store.save_generation(generation(round_number))
        assert DeviceStore(tmp_path).load_generation() == generation(round_number)


def test_a_higher_epoch_is_newer_than_a_higher_round(tmp_path: Path) -> None:
    store = DeviceStore(tmp_path)
    store.save_generation(generation(9, epoch=1))
    store.save_generation(generation(2, epoch=2))
    assert DeviceStore(tmp_path).load_generation() == generation(2, epoch=2)


def test_the_last_generation_is_never_overwritten_by_the_next(tmp_path: Path) -> None:
    store = DeviceStore(tmp_path)
    for round_number in range(1, 8):
        store.save_generation(generation(round_number))
        newest_slot(tmp_path).unlink()
        found = DeviceStore(tmp_path).load_generation()
        assert found == (generation(round_number - 1) if round_number > 1 else None)
        store = DeviceStore(tmp_path)
        store.load_generation()
        store.save_generation(generation(round_number))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(damage=st.data())
def test_a_damaged_generation_falls_back_to_the_one_before_and_the_log_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: st.DataObject
) -> None:
    store = DeviceStore(tmp_path)
    store.load_generation()
    store.save_generation(generation(1))
    store.save_generation(generation(2))
    newest = newest_slot(tmp_path)
    data = newest.read_bytes()
    place = damage.draw(st.integers(0, len(data) - 1))
    if damage.draw(st.booleans()):
        newest.write_bytes(data[:place])
    else:
        newest.write_bytes(data[:place] + bytes([data[place] ^ damage.draw(st.integers(1, 255))]) + data[place + 1 :])
    caplog.clear()
    again = DeviceStore(tmp_path)
    assert again.load_generation() == generation(1)
    assert [record.getMessage() for record in caplog.records] == [
        f"{newest} is damaged; going on from the generation before it"
    ]
    again.save_generation(generation(2))
    assert DeviceStore(tmp_path).load_generation() == generation(2)


def test_a_generation_of_another_format_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    body = msgspec.msgpack.encode({"epoch": 1})
    digest = bytes.fromhex(content_digest(body))
    DeviceStore(tmp_path).save_generation(generation(1))
    (tmp_path / SLOTS[1]).write_bytes(MAGIC + digest + body)
    assert DeviceStore(tmp_path).load_generation() == generation(1)
    assert "unknown format" in caplog.text


@pytest.mark.parametrize("num_saved", [1, 2])
def test_a_device_of_which_every_generation_is_damaged_never_begins_anew_by_itself(
    tmp_path: Path, num_saved: int
) -> None:
    store = DeviceStore(tmp_path)
    for number in range(num_saved):
        store.save_generation(generation(number + 1))
    for slot in SLOTS[:num_saved]:
        (tmp_path / slot).write_bytes(b"rubbish")
    with pytest.raises(StoreError, match="move them away to begin as a new device"):
        DeviceStore(tmp_path).load_generation()
    for slot in SLOTS[:num_saved]:
        (tmp_path / slot).unlink()
    assert DeviceStore(tmp_path).load_generation() is None


def test_the_last_generation_of_another_model_is_archived_once(tmp_path: Path) -> None:
    store = DeviceStore(tmp_path)
    for number in (1, 2):
        store.save_generation(generation(number))
    again = DeviceStore(tmp_path)
    again.load_generation()
    for number in (3, 4):
        again.save_generation(msgspec.structs.replace(generation(number), model_id="e" * 64))
    (archived,) = (tmp_path / "archive").iterdir()
    assert archived.name == f"{generation(2).model_id[:12]}-{generation(2).epoch}-2"
    slot = tmp_path / "restored"
    slot.mkdir()
    archived.rename(slot / SLOTS[0])  # it is a generation like any other
    assert DeviceStore(slot).load_generation() == generation(2)


def test_a_layer_of_equal_name_and_shapes_is_the_devices_own_in_another_model_too() -> None:
    kept = msgspec.structs.replace(
        generation(1),
        own={name: bytes(8) for name in ("fc1", "fc2", "gone")},
        shapes=dict.fromkeys(("fc1", "gone"), ((2,),)),
    )
    layers = (MANIFEST.layer("fc1"), LayerSpec("fc2", (ParameterSpec("fc2.weight", (2,)),)))
    other = msgspec.structs.replace(MANIFEST, layers=layers)
    assert list(kept.layers_that_fit("e" * 64, other)) == ["fc1"]
    assert sorted(kept.layers_that_fit(kept.model_id, other)) == ["fc1", "fc2", "gone"]
    turned = msgspec.structs.replace(MANIFEST, layers=(LayerSpec("fc1", (ParameterSpec("fc1.weight", (1, 2)),)),))
    assert kept.layers_that_fit("e" * 64, turned) == {}


def test_what_a_crash_left_unfinished_is_not_read(tmp_path: Path) -> None:
    store = DeviceStore(tmp_path)
    store.save_generation(generation(1))
    for slot in SLOTS:
        (tmp_path / f"{slot}{UNFINISHED}").write_bytes(b"half")
    assert DeviceStore(tmp_path).load_generation() == generation(1)


def test_the_session_number_rises_with_every_start(tmp_path: Path) -> None:
    assert [DeviceStore(tmp_path).next_session() for _ in range(4)] == [1, 2, 3, 4]


def test_session_traffic_and_the_latest_plan_do_not_disturb_each_other(tmp_path: Path) -> None:
    store = DeviceStore(tmp_path)
    assert store.load_traffic() == Traffic(0, 0)
    store.next_session()
    assert store.load_seen() == (0, 0)
    store.save_traffic(Traffic(100, 200))
    store.save_seen(3, 70)
    assert DeviceStore(tmp_path).next_session() == 2
    assert DeviceStore(tmp_path).load_traffic() == Traffic(100, 200)
    store.save_traffic(Traffic(300, 400))
    assert DeviceStore(tmp_path).load_seen() == (3, 70)


@pytest.mark.parametrize("text", [b"", b"{", b"\xff", b'{"session": "x\xff"}', b"[" * 100_000])
def test_a_damaged_session_file_is_said_and_counted_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: bytes
) -> None:
    (tmp_path / "session.json").write_bytes(text)
    assert DeviceStore(tmp_path).next_session() == 1
    assert "damaged" in caplog.text
    assert DeviceStore(tmp_path).next_session() == 2


def test_a_program_is_whole_only_with_its_own_manifest(tmp_path: Path) -> None:
    store = DeviceStore(tmp_path)
    manifest = encode_manifest(MANIFEST)
    model_id = content_digest(manifest)
    assert store.load_manifest(model_id) is None
    store.save_program(model_id, {"manifest.json": manifest, "train.onnx": b"program"})
    assert store.load_manifest(model_id) == MANIFEST
    assert (store.program_folder(model_id) / "train.onnx").read_bytes() == b"program"
    (store.program_folder(model_id) / "manifest.json").write_bytes(manifest + b" ")
    assert store.load_manifest(model_id) is None
    (store.program_folder(model_id) / "manifest.json").write_bytes(b"{")
    assert store.load_manifest(model_id) is None


@pytest.mark.parametrize("name", [*SLOTS, "session.json"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str) -> None:
    store = DeviceStore(tmp_path)
    (tmp_path / name).mkdir()
    with pytest.raises(StoreError, match=f"cannot read .*{name}: Is a directory"):
        store.next_session() if name == "session.json" else store.load_generation()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"cannot write .*file/device: Not a directory; free some space"):
        DeviceStore(tmp_path / "file" / "device")


FULL_DISK = """
import logging, resource, signal, sys
from pathlib import Path
import msgspec
from edge_client.generation import Generation
from edge_client.store import DeviceStore
from wire.errors import StoreError

store = DeviceStore(Path(sys.argv[1]))
last = store.load_generation()
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
try:
    store.save_generation(msgspec.structs.replace(last, round_number=2, own={"fc1": bytes(10_000)}))
except StoreError as error:
    sys.stderr.write(str(error))
    sys.exit(error.exit_code)
"""


def test_a_full_disk_keeps_the_last_generation_and_says_what_to_do(tmp_path: Path) -> None:
    DeviceStore(tmp_path).save_generation(generation(1))
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path)]
    here = Path(__file__).parents[2]
    ended = subprocess.run(command, cwd=here, capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode == 7
    assert ended.stderr == (
        f"cannot write {tmp_path / SLOTS[1]}: File too large; free some space, or choose another `folder`"
    )
    assert DeviceStore(tmp_path).load_generation() == generation(1)


@pytest.fixture(autouse=True)
def _hear_warnings(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
