"""What the aggregator keeps: checkpoints that are whole or not there, layers that are what they are called."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from aggregator.evidence import Decision, FixedState
from aggregator.planning import FleetState
from aggregator.store import NUM_CHECKPOINTS, FleetStore
from wire.digest import content_digest
from wire.errors import StoreError
from wire.messages import RoundPlan, TrainingSettings


def make_state(round_number: int, data: bytes, *, is_finished: bool = False) -> FleetState:
    digest = content_digest(data)
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


def save(store: FleetStore, round_number: int, *, is_finished: bool = False) -> FleetState:
    data = f"values of round {round_number}".encode()
    state = make_state(round_number, data, is_finished=is_finished)
    store.save(state, {content_digest(data): data})
    return state


def test_a_new_fleet_has_no_checkpoint(tmp_path: Path) -> None:
    assert FleetStore(tmp_path).load_state() is None


def test_the_newest_checkpoint_is_loaded_with_its_layers(tmp_path: Path) -> None:
    store = FleetStore(tmp_path)
    states = [save(store, number) for number in (1, 2, 10)]
    again = FleetStore(tmp_path)
    assert again.load_state() == states[-1]
    assert again.load_layer(states[-1].layers["fc"]) == b"values of round 10"


def test_a_finished_fleet_is_newer_than_its_last_round(tmp_path: Path) -> None:
    store = FleetStore(tmp_path)
    save(store, 7)
    finished = save(store, 7, is_finished=True)
    assert store.load_state() == finished


@pytest.mark.parametrize("damage", ["torn", "altered", "empty"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before_and_says_so(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = FleetStore(tmp_path)
    before = save(store, 1)
    save(store, 2)
    newest = max((tmp_path / "checkpoints").iterdir())
    data = newest.read_bytes()
    newest.write_bytes({"torn": data[:-5], "altered": data[:-1] + b"x", "empty": b""}[damage])
    with caplog.at_level(logging.WARNING):
        assert store.load_state() == before
    assert newest.name in caplog.text


def test_a_store_without_a_whole_checkpoint_is_never_begun_anew(tmp_path: Path) -> None:
    store = FleetStore(tmp_path)
    save(store, 1)
    for path in (tmp_path / "checkpoints").iterdir():
        path.write_bytes(b"rubbish")
    with pytest.raises(StoreError, match="restore a backup"):
        store.load_state()


def test_a_layer_that_was_altered_is_refused_by_its_name(tmp_path: Path) -> None:
    store = FleetStore(tmp_path)
    digest = save(store, 1).layers["fc"]
    (tmp_path / "layers" / digest).write_bytes(b"something else")
    with pytest.raises(StoreError, match=digest[:20]):
        store.load_layer(digest)


def test_old_checkpoints_and_the_layers_that_nobody_names_are_removed(tmp_path: Path) -> None:
    store = FleetStore(tmp_path)
    for number in range(1, 2 * NUM_CHECKPOINTS):
        save(store, number)
    assert len(list((tmp_path / "checkpoints").iterdir())) == NUM_CHECKPOINTS
    assert len(list((tmp_path / "layers").iterdir())) == NUM_CHECKPOINTS


def test_every_start_has_a_higher_session_number(tmp_path: Path) -> None:
    assert [FleetStore(tmp_path).next_session() for _ in range(3)] == [1, 2, 3]


def test_the_round_log_gives_back_each_device_and_layer_and_leaves_nothing(tmp_path: Path) -> None:
    log = FleetStore(tmp_path).open_round_log(0, 3)
    rng = np.random.default_rng(0)
    values = {
        (name, layer): rng.normal(size=size).astype(np.float32)
        for name in ("a", "b")
        for layer, size in (("x", 5), ("y", 1000))
    }
    for (name, layer), vector in values.items():
        log.append(name, layer, vector)
    log.commit()
    for layer in ("x", "y"):
        for name, row in log.rows(layer, ("b", "a")).items():
            np.testing.assert_array_equal(row, values[name, layer])
    log.delete()
    assert list((tmp_path / "rounds").iterdir()) == []
