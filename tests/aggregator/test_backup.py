"""Backups: whole whatever goes on, refused when they are not, and what is damaged stays beside what replaces it."""

from __future__ import annotations

import tarfile
from contextlib import closing
from pathlib import Path

import pytest

from aggregator.keeping.backup import back_up, restore
from aggregator.keeping.store import FleetStore
from aggregator.planning import FleetState
from tests.aggregator.test_store import alter, save
from wire.errors import StoreError


def fill(folder: Path, *round_numbers: int) -> list[FleetState]:
    with closing(FleetStore(folder)) as store:
        return [save(store, number) for number in round_numbers]


def check_restored(folder: Path, state: FleetState) -> None:
    with closing(FleetStore(folder)) as store:
        assert store.version(state.name) == state
        request = store.request()
        assert request is not None
        assert request.state == state
        store.forget_request(request)
        assert store.request() is None
        for digest in state.layers.values():
            store.layers.load(digest)


def test_a_backup_restored_into_an_empty_folder_is_the_fleet(tmp_path: Path) -> None:
    states = fill(tmp_path / "old", 1, 2, 3)
    assert back_up(tmp_path / "old", tmp_path / "fleet.tar") == states[-1]
    assert restore(tmp_path / "new", "home", tmp_path / "fleet.tar") == states[-1]
    with closing(FleetStore(tmp_path / "new")) as store:
        assert store.load_state() == states[-1]
        assert len(store.reports()) == 3
        assert len(store.receipts()) == 3
    check_restored(tmp_path / "new", states[-1])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fleet.tar", "new", "old"]


def test_a_backup_made_while_the_fleet_goes_on_brings_back_its_version_and_keeps_the_later_ones(tmp_path: Path) -> None:
    with closing(FleetStore(tmp_path / "fleet")) as running:
        running.claim()
        old = save(running, 1)
        back_up(tmp_path / "fleet", tmp_path / "fleet.tar")
        later = [save(running, number) for number in range(2, 15)]
        with pytest.raises(StoreError, match="0-1 is not kept"):
            running.version("0-1")
        restore(tmp_path / "fleet", "home", tmp_path / "fleet.tar")
        assert running.load_state() == later[-1]
        check_restored(tmp_path / "fleet", old)


def test_what_was_asked_for_is_not_pruned(tmp_path: Path) -> None:
    with closing(FleetStore(tmp_path)) as store:
        old = save(store, 1)
        store.ask_to_go_back(old)
        for number in range(2, 15):
            save(store, number)
        request = store.request()
        assert request is not None
        assert request.state == old
        for digest in old.layers.values():
            store.layers.load(digest)


def test_a_damaged_database_is_put_aside(tmp_path: Path) -> None:
    (state,) = fill(tmp_path / "fleet", 1)
    back_up(tmp_path / "fleet", tmp_path / "fleet.tar")
    (tmp_path / "fleet" / "fleet.sqlite").write_bytes(b"rubbish" * 1000)
    restore(tmp_path / "fleet", "home", tmp_path / "fleet.tar")
    check_restored(tmp_path / "fleet", state)
    assert (tmp_path / "fleet" / "damaged-1" / "fleet.sqlite").read_bytes() == b"rubbish" * 1000


def test_a_fleet_of_which_every_version_is_damaged_is_repaired(tmp_path: Path) -> None:
    (state,) = fill(tmp_path / "fleet", 1)
    back_up(tmp_path / "fleet", tmp_path / "fleet.tar")
    alter(tmp_path / "fleet", "UPDATE versions SET state = x'00'")
    restore(tmp_path / "fleet", "home", tmp_path / "fleet.tar")
    with closing(FleetStore(tmp_path / "fleet")) as store:
        assert store.load_state() == state


@pytest.mark.parametrize("damage", ["missing", "empty", "rubbish", "truncated", "without a database", "altered layer"])
def test_a_backup_that_is_not_whole_is_refused_and_changes_nothing(tmp_path: Path, damage: str) -> None:
    (state,) = fill(tmp_path / "fleet", 1)
    archive = tmp_path / "fleet.tar"
    back_up(tmp_path / "fleet", archive)
    whole = archive.read_bytes()
    match damage:
        case "missing":
            archive.unlink()
        case "empty":
            archive.write_bytes(b"")
        case "rubbish":
            archive.write_bytes(b"x" * 100_000)
        case "truncated":
            archive.write_bytes(whole[: len(whole) // 2])
        case "without a database":
            with tarfile.open(archive, "w") as tar:
                tar.add(tmp_path / "fleet" / "layers", "layers")
        case "altered layer":
            (layer,) = (tmp_path / "fleet" / "layers").iterdir()
            values = layer.read_bytes()[-8:]
            archive.write_bytes(whole.replace(values, bytes(8)))
    with pytest.raises(StoreError):
        restore(tmp_path / "fleet", "home", archive)
    with closing(FleetStore(tmp_path / "fleet")) as store:
        assert store.load_state() == state
        assert store.request() is None
    assert not list((tmp_path / "fleet").glob("tmp*"))


def test_a_backup_of_another_fleet_is_refused(tmp_path: Path) -> None:
    fill(tmp_path / "fleet", 1)
    back_up(tmp_path / "fleet", tmp_path / "fleet.tar")
    with pytest.raises(StoreError, match="backup of the fleet home, not of office"):
        restore(tmp_path / "office", "office", tmp_path / "fleet.tar")


def test_a_folder_without_a_fleet_and_a_place_that_is_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="holds no fleet yet"):
        back_up(tmp_path, tmp_path / "fleet.tar")
    fill(tmp_path / "fleet", 1)
    with pytest.raises(StoreError, match="there is no folder"):
        back_up(tmp_path / "fleet", tmp_path / "nowhere" / "fleet.tar")
