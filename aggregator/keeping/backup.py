"""Backups: one tar file with the database and the layers that its versions name, made while the aggregator runs.

Restored, a fleet goes on from the backup's newest version in a later epoch, so no device takes an old plan for a new one.
"""

from __future__ import annotations

import os
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from aggregator.keeping.store import FleetStore, claim_folder
from aggregator.planning import FleetState
from wire.durable import UNFINISHED, storage_error
from wire.errors import StoreError

__all__ = ["back_up", "restore"]

DATABASE = "fleet.sqlite"
SNAPSHOTS = 3


def back_up(folder: Path, archive: Path) -> FleetState:
    """Write all that must not be lost of an aggregator's folder into one file; return its newest version.

    Raises:
        StoreError: If there is no whole version, or the disk refuses.
    """
    if not archive.absolute().parent.is_dir():
        raise StoreError(f"cannot write {archive}: there is no folder {archive.absolute().parent}")
    with closing(FleetStore.existing(folder)) as store, tempfile.TemporaryDirectory(dir=folder) as place:
        for _ in range(SNAPSHOTS):  # a layer may be pruned between the copy of the database and its own
            with suppress(FileNotFoundError):
                return _write(store, Path(place), archive)
    raise StoreError(f"{folder} changes too fast to be copied; try again, or stop the aggregator")


def restore(folder: Path, fleet: str, archive: Path) -> FleetState:
    """Let a fleet go on from a backup: at once if its aggregator runs, else when it starts; return the version.

    A folder without a database, or with a damaged one, becomes that of the backup; what was damaged stays beside it.

    Args:
        folder: The aggregator's.
        fleet: Its name.
        archive: From ``back_up``.

    Raises:
        StoreError: If the backup is damaged or of another fleet, or the disk refuses.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _unpacked(folder, archive) as place, closing(FleetStore(place)) as backup:
        state = backup.load_state()
        if state is None or state.plan.fleet != fleet:
            name = "no fleet" if state is None else f"the fleet {state.plan.fleet}"
            raise StoreError(f"{archive} is a backup of {name}, not of {fleet}")
        brought_back = [state]
        if not _is_whole(folder):
            _replace_damaged(folder, backup)
            brought_back = [version.state for version in backup.versions()]
        digests = {digest for version in brought_back for digest in version.layers.values()}
        with closing(FleetStore(folder)) as store:
            store.ask_to_go_back(state, backup.layers, digests)
        return state


def _write(store: FleetStore, place: Path, archive: Path) -> FleetState:
    """Write the archive beside, and put it in its place when it is durable."""
    store.copy_database(place / DATABASE)
    with closing(FleetStore(place)) as copy:
        versions = [version.state for version in copy.versions()]
    if not versions:
        raise StoreError("the aggregator has no version yet: there is nothing to back up")
    unfinished = archive.with_name(archive.name + UNFINISHED)
    try:
        with unfinished.open("wb") as file, tarfile.open(fileobj=file, mode="w") as tar:
            tar.add(place / DATABASE, DATABASE)
            for digest in sorted({digest for state in versions for digest in state.layers.values()}):
                tar.add(store.layers.path(digest), f"layers/{store.layers.path(digest).name}")
            tar.close()
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(archive)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise storage_error(archive, error) from error
    finally:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
    return versions[0]


@contextmanager
def _unpacked(folder: Path, archive: Path) -> Iterator[Path]:
    """Unpack a backup beside what it may replace."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        try:
            with tarfile.open(archive, mode="r:") as tar:
                tar.extractall(place, filter="data")
        except OSError as error:
            raise StoreError(f"cannot read the backup {archive}: {error.strerror or error}") from error
        except tarfile.TarError as error:
            raise StoreError(f"{archive} is damaged, or no backup: {error}") from error
        if not (Path(place) / DATABASE).exists():
            raise StoreError(f"{archive} is no backup of a fleet: it holds no {DATABASE}")
        yield Path(place)


def _is_whole(folder: Path) -> bool:
    """Say whether this folder holds a database that can be used."""
    if not (folder / DATABASE).exists():
        return False
    try:
        with closing(FleetStore(folder)):
            return True
    except StoreError:
        return False


def _replace_damaged(folder: Path, backup: FleetStore) -> None:
    """Put the backup's database in the place of one that is missing or damaged, which stays beside it."""
    number = 1
    while (aside := folder / f"damaged-{number}").exists():
        number += 1
    found = [path for path in folder.glob(DATABASE + "*") if path.is_file()]
    with claim_folder(folder):
        try:
            if found:
                aside.mkdir()
                for path in found:
                    path.rename(aside / path.name)
            backup.copy_database(folder / DATABASE)
        except OSError as error:
            raise storage_error(folder, error) from error
