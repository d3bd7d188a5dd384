"""What the aggregator keeps: versions that are whole or not there, layers that are what they are called, receipts."""

from __future__ import annotations

import logging
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import msgspec
import numpy as np
import pytest
from safetensors.numpy import load_file

from aggregator.evidence import Decision, FixedState
from aggregator.keeping.database import MIGRATIONS
from aggregator.keeping.store import NUM_RECEIPTS, NUM_VERSIONS, FleetStore
from aggregator.planning import FleetState
from aggregator.round_report import ClosedRound, RoundReport
from wire.digest import content_digest
from wire.errors import StoreError
from wire.manifest import LayerSpec, ModelManifest, ParameterSpec
from wire.messages import RoundPlan, TrainingSettings
from wire.tensors import encode_layer

LAYER = LayerSpec("fc", (ParameterSpec("fc.weight", (2, 3)), ParameterSpec("fc.bias", (2,))))
MANIFEST = ModelManifest("tiny", (LAYER,), (3,), 2, {})


def encoded(round_number: int) -> bytes:
    return encode_layer(LAYER, np.arange(8, dtype=np.float32) + round_number, codec="raw")


def make_state(round_number: int, *, is_finished: bool = False) -> FleetState:
    digest = content_digest(encoded(round_number))
    plan = RoundPlan(
        fleet="home",
        epoch=0,
        round_number=round_number,
        model_id="0" * 64,
        shared_layers={"fc": digest},
        personal_layers={},
        training=TrainingSettings(),
        sketch_seed=0,
        sketch_width=8,
        duration_s=60.0,
    )
    return FleetState(
        plan=plan,
        layers={"fc": digest},
        selector="fedavg",
        selector_state=FixedState(()),
        decision=Decision(()),
        is_finished=is_finished,
    )


def make_report(round_number: int, refused: dict[str, str] | None = None) -> RoundReport:
    return RoundReport(
        epoch=0,
        round_number=round_number,
        plan="0" * 64,
        selector="fedavg",
        personal_layers=(),
        next_personal_layers=(),
        reasons={},
        conflict_scores={},
        mean_cosines={},
        swap_gains={},
        swap_errors={},
        counted={},
        refused=refused or {},
        refused_messages={},
        dropouts=("attic",),
        runtimes={},
        duration_s=1.0,
    )


def save(store: FleetStore, round_number: int, *, is_finished: bool = False) -> FleetState:
    state = make_state(round_number, is_finished=is_finished)
    data = encoded(round_number)
    closed = ClosedRound(make_report(round_number), state.plan, {"kitchen": f"{round_number:064}"})
    store.save(state, {content_digest(data): data}, MANIFEST, closed)
    return state


def alter(folder: Path, statement: str, *values: object) -> None:
    with sqlite3.connect(folder / "fleet.sqlite") as database:
        database.execute(statement, values)
    database.close()


def test_a_new_fleet_has_no_version(tmp_path: Path) -> None:
    assert FleetStore(tmp_path).load_state() is None


def test_the_newest_version_is_loaded_with_its_layers(tmp_path: Path) -> None:
    store = FleetStore(tmp_path)
    states = [save(store, number) for number in (1, 2, 10)]
    again = FleetStore(tmp_path)
    assert again.load_state() == states[-1]
    assert again.layers.load(states[-1].layers["fc"]) == encoded(10)


def test_a_finished_fleet_is_newer_than_its_last_round(tmp_path: Path) -> None:
    store = FleetStore(tmp_path)
    save(store, 7)
    finished = save(store, 7, is_finished=True)
    assert store.load_state() == finished


@pytest.mark.parametrize("damage", [b"", b"rubbish", encoded(2)])
def test_a_damaged_version_falls_back_to_the_one_before_and_says_so(
    tmp_path: Path, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    store = FleetStore(tmp_path)
    before = save(store, 1)
    save(store, 2)
    alter(tmp_path, "UPDATE versions SET state = ? WHERE round_number = 2", damage)
    with caplog.at_level(logging.WARNING):
        assert store.load_state() == before
    assert "a version in the database is damaged" in caplog.text


@pytest.mark.parametrize("damage", ["torn", "altered", "missing", "another"])
def test_a_version_whose_layer_is_damaged_falls_back_to_the_one_before_and_names_the_file(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = FleetStore(tmp_path)
    before = save(store, 1)
    path = store.layers.path(save(store, 2).layers["fc"])
    whole = path.read_bytes()
    match damage:
        case "torn":
            path.write_bytes(whole[:-5])
        case "altered":
            path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        case "missing":
            path.unlink()
        case "another":
            path.write_bytes(store.layers.path(before.layers["fc"]).read_bytes())
    with caplog.at_level(logging.WARNING):
        assert store.load_state() == before
    assert path.name in caplog.text


def test_a_store_without_a_whole_version_is_never_begun_anew(tmp_path: Path) -> None:
    store = FleetStore(tmp_path)
    save(store, 1)
    alter(tmp_path, "UPDATE versions SET state = x'00'")
    with pytest.raises(StoreError, match="fedlag restore"):
        store.load_state()


@pytest.mark.parametrize("where", [0, 0.5])
def test_a_damaged_database_is_named_with_what_repairs_it(tmp_path: Path, where: float) -> None:
    store = FleetStore(tmp_path)
    for number in range(1, 30):
        save(store, number)
    store.close()
    path = tmp_path / "fleet.sqlite"
    data = bytearray(path.read_bytes())
    start = int(where * len(data)) // 4096 * 4096
    data[start : start + 4096] = b"\xff" * 4096
    path.write_bytes(data)
    with pytest.raises(StoreError, match=r"fleet\.sqlite is damaged .* `fedlag restore`"):
        FleetStore(tmp_path)


def test_a_database_of_a_later_version_is_refused(tmp_path: Path) -> None:
    FleetStore(tmp_path).close()
    alter(tmp_path, f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    with pytest.raises(StoreError, match="upgrade fedlag"):
        FleetStore(tmp_path)


def test_a_folder_of_before_there_was_a_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(StoreError, match="choose another `folder`"):
        FleetStore(tmp_path)


def test_a_version_that_is_not_kept_is_refused_with_those_that_are(tmp_path: Path) -> None:
    store = FleetStore(tmp_path)
    states = [save(store, number) for number in (1, 2)]
    assert [store.version(name) for name in ("latest", "0-1")] == [states[1], states[0]]
    with pytest.raises(StoreError, match=r"version 3-14 is not kept in .*; these are: 0-2, 0-1"):
        store.version("3-14")


def test_the_last_ten_versions_every_hundredth_and_the_layers_that_they_name_stay(tmp_path: Path) -> None:
    store = FleetStore(tmp_path)
    for number in range(90, 90 + 2 * NUM_VERSIONS + 1):
        save(store, number)
    kept = [100, *range(101, 101 + NUM_VERSIONS)]
    with sqlite3.connect(tmp_path / "fleet.sqlite") as database:
        assert [row[0] for row in database.execute("SELECT round_number FROM versions ORDER BY 1")] == kept
    database.close()
    named = {content_digest(encoded(number)) for number in kept}
    assert {path.stem for path in (tmp_path / "layers").iterdir()} == named


def test_a_layers_file_is_read_by_any_safetensors_reader(tmp_path: Path) -> None:
    store = FleetStore(tmp_path)
    digest = save(store, 1).layers["fc"]
    tensors = load_file(store.layers.path(digest))
    np.testing.assert_array_equal(tensors["fc.weight"], np.arange(1, 7, dtype=np.float32).reshape(2, 3))
    np.testing.assert_array_equal(tensors["fc.bias"], np.array([7, 8], dtype=np.float32))


def test_the_receipts_of_the_last_hundred_rounds_stay(tmp_path: Path) -> None:
    store = FleetStore(tmp_path)
    for number in range(1, NUM_RECEIPTS + 4):
        save(store, number)
    receipts = FleetStore(tmp_path).receipts()
    assert list(receipts) == [(0, number) for number in range(4, NUM_RECEIPTS + 4)]
    assert receipts[0, 50] == {"kitchen": f"{50:064}"}


def test_what_devices_did_is_counted(tmp_path: Path) -> None:
    store = FleetStore(tmp_path)
    save(store, 1)
    state = make_state(2)
    store.save(state, {}, MANIFEST, ClosedRound(make_report(2, {"hall": "not-finite"}), state.plan, {}))
    with sqlite3.connect(tmp_path / "fleet.sqlite") as database:
        found = list(database.execute("SELECT device_id, refused, missed, last_refusal FROM devices ORDER BY 1"))
    database.close()
    assert found == [("attic", 0, 2, ""), ("hall", 1, 0, "not-finite")]


def test_every_start_has_a_higher_session_number(tmp_path: Path) -> None:
    assert [FleetStore(tmp_path).next_session() for _ in range(3)] == [1, 2, 3]


def test_a_second_aggregator_in_the_same_folder_is_refused_until_the_first_ends(tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from aggregator.keeping.store import FleetStore\n"
    code += "store = FleetStore(Path(sys.argv[1])); store.claim(); print('claimed', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "claimed\n"
        with closing(FleetStore(tmp_path)) as second, pytest.raises(StoreError, match="another aggregator uses"):
            second.claim()
        first.kill()
    with closing(FleetStore(tmp_path)) as second:
        second.claim()


def save_buffered(store: FleetStore, round_number: int, max_staleness: int = 3) -> FleetState:
    """A version of buffered rounds, with the plans before it."""
    earlier = tuple(make_state(number).plan for number in range(max(1, round_number - max_staleness), round_number))
    state = msgspec.structs.replace(make_state(round_number), earlier_plans=earlier)
    data = encoded(round_number)
    store.save(state, {content_digest(data): data}, MANIFEST)
    return state


def test_what_earlier_plans_began_with_stays_while_they_can_be_answered(tmp_path: Path) -> None:
    store = FleetStore(tmp_path)
    states = [save_buffered(store, number, max_staleness=20) for number in range(1, 31)]
    assert store.load_state() == states[-1]
    for number in range(10, 31):
        assert store.layers.load(content_digest(encoded(number))) == encoded(number)
    assert not store.layers.path(content_digest(encoded(9))).exists()


def test_an_earlier_plan_whose_layer_is_damaged_can_be_answered_no_more(tmp_path: Path) -> None:
    store = FleetStore(tmp_path)
    states = [save_buffered(store, number) for number in range(1, 20)]
    store.layers.path(content_digest(encoded(17))).write_bytes(b"rubbish")
    state = store.load_state()
    assert state is not None
    assert [plan.round_number for plan in state.earlier_plans] == [16, 18]
    assert state.layers == states[-1].layers
