"""The aggregator's disk: what must not be lost between two rounds, and the log of the open one.

``fleet.sqlite`` holds versions, rounds, receipts and what devices did; ``layers/<digest>.safetensors`` the averages;
``rounds/`` the log of the open round. A version is what a fleet goes on from: the layers by their digests, which of them are
personal, and the selector's state. The last ten stay, and of those before every hundredth.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import sqlite3
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import IO, NamedTuple

import msgspec

from aggregator.keeping.database import Database
from aggregator.keeping.layer_files import LayerFiles
from aggregator.keeping.records import add_round
from aggregator.keeping.round_log import RoundLog
from aggregator.planning import FleetState
from aggregator.round_report import ClosedRound, RoundReport
from wire.durable import storage_error
from wire.errors import StoreError
from wire.manifest import ModelManifest
from wire.messages import RoundPlan

__all__ = ["FleetStore", "Request", "Version", "claim_folder"]

NUM_VERSIONS = 10
KEPT_FOREVER = 100
NUM_RECEIPTS = 100

log = logging.getLogger(__name__)


class Version(NamedTuple):
    """A state that is kept, and when it was saved, in UTC."""

    state: FleetState
    saved_at: str


class Request(NamedTuple):
    """A state that the aggregator shall go on from; later requests have higher numbers."""

    number: int
    state: FleetState


class FleetStore:
    """What the aggregator keeps in its folder.

    Args:
        folder: Made if it is missing.

    Raises:
        StoreError: If the disk refuses, or what it holds is damaged; so do all its methods.
    """

    def __init__(self, folder: Path) -> None:
        """Make the folder, and open the database."""
        self._folder = folder
        self._lock: IO[str] | None = None
        self._rounds = folder / "rounds"
        try:
            self._rounds.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise storage_error(folder, error) from error
        if (folder / "checkpoints").exists() and not (folder / "fleet.sqlite").exists():
            raise StoreError(
                f"{folder} was written by fedlag before 0.1, which kept no database; choose another `folder`"
            )
        self.layers = LayerFiles(folder / "layers")
        self._database = Database(folder / "fleet.sqlite")

    def claim(self) -> None:
        """Keep every other aggregator from this folder until this process ends; others may still read.

        Raises:
            StoreError: If another one has it.
        """
        self._lock = claim_folder(self._folder)

    @classmethod
    def existing(cls, folder: Path) -> FleetStore:
        """Return the store of a folder in which there is one.

        Raises:
            StoreError: If there is none.
        """
        if not (folder / "fleet.sqlite").exists():
            raise StoreError(f"{folder} holds no fleet yet; its aggregator makes one when it starts")
        return cls(folder)

    def close(self) -> None:
        """Close the database, and let another aggregator have the folder."""
        self._database.close()
        if self._lock is not None:
            self._lock.close()

    def next_session(self) -> int:
        """Return this start's session number: one more than at the last start."""
        with self._database.transaction() as changes:
            changes.execute(
                "INSERT INTO settings VALUES ('session', 1) ON CONFLICT (name) DO UPDATE SET value = value + 1"
            )
        ((session,),) = self._database.rows("SELECT value FROM settings WHERE name = 'session'")
        return int(str(session))

    def load_state(self) -> FleetState | None:
        """Return the newest version that is whole, with all its layers; ``None`` for a new fleet."""
        found = self._database.rows(
            "SELECT state, sha256 FROM versions ORDER BY epoch DESC, round_number DESC, is_finished DESC"
        )
        for body, digest in found:
            try:
                return self._whole(body, digest)
            except StoreError as error:
                log.warning("%s; going on from the version before it", error)
        if found:
            raise StoreError("no version that was kept is whole; bring back a copy of the folder with `fedlag restore`")
        return None

    def save(
        self,
        state: FleetState,
        layers: Mapping[str, bytes],
        manifest: ModelManifest,
        closed: ClosedRound | None = None,
    ) -> None:
        """Commit a version, and what is kept of the round that led to it.

        Args:
            state: What the fleet goes on from.
            layers: Digest -> encoded values of the layers that are new.
            manifest: Of the model.
            closed: The round that led to it, if one did.
        """
        names = {digest: name for name, digest in state.layers.items()}
        for digest, data in layers.items():
            self.layers.save(manifest.layer(names[digest]), data)
        with self._database.transaction() as changes:
            _add_version(changes, state)
            if closed is not None:
                add_round(changes, closed)
            self._prune(changes)
        with self._database.transaction():  # nobody brings back a version meanwhile
            self.layers.prune(self._named() | state.digests)

    def versions(self) -> list[Version]:
        """Return what is kept, the newest first; what cannot be read is left out."""
        found = self._database.rows(
            "SELECT state, saved_at FROM versions ORDER BY epoch DESC, round_number DESC, is_finished DESC"
        )
        read = [(_decode(body), str(saved_at)) for body, saved_at in found]
        return [Version(state, saved_at) for state, saved_at in read if state is not None]

    def version(self, name: str) -> FleetState:
        """Return a version by its name, ``latest`` or for example ``0-12``.

        Raises:
            StoreError: If it is not kept.
        """
        kept = [version.state for version in self.versions()]
        for state in kept:
            if name in ("latest", state.name):
                return state
        names = ", ".join(state.name for state in kept) or "none"
        raise StoreError(f"version {name} is not kept in {self._folder}; these are: {names}")

    def ask_to_go_back(
        self, state: FleetState, backup: LayerFiles | None = None, digests: Collection[str] = ()
    ) -> None:
        """Let the aggregator go on from this state, at once if it runs, else when it starts.

        Args:
            state: A version that was kept here, or in a backup.
            backup: Where layers come from that are not here.
            digests: Theirs.
        """
        with self._database.transaction() as changes:
            if backup is not None:
                self.layers.bring_back(backup, digests)
            _add_version(changes, state)
            changes.execute("INSERT INTO requests (state) VALUES (?)", (msgspec.msgpack.encode(state),))

    def request(self) -> Request | None:
        """Return what the aggregator was asked last to go on from; it stays asked for until ``forget_request``."""
        for number, body in self._database.rows("SELECT id, state FROM requests ORDER BY id DESC"):
            state = _decode(body)
            if state is not None:
                return Request(int(str(number)), state)
        return None

    def forget_request(self, request: Request) -> None:
        """Drop a request that was served or refused, and those before it."""
        with self._database.transaction() as changes:
            changes.execute("DELETE FROM requests WHERE id <= ?", (request.number,))

    def copy_database(self, path: Path) -> None:
        """Write the database as it is now to another file, while the aggregator may write."""
        self._database.copy_to(path)

    def reports(self) -> list[RoundReport]:
        """Return the reports of all closed rounds, in their order."""
        found = self._database.rows("SELECT report FROM rounds ORDER BY epoch, round_number")
        return [msgspec.json.decode(str(report), type=RoundReport) for (report,) in found]

    def receipts(self) -> dict[tuple[int, int], dict[str, str]]:
        """Return (epoch, round) -> device -> digest of the inventory that was counted, of the last hundred rounds."""
        rounds: dict[tuple[int, int], dict[str, str]] = {}
        query = "SELECT epoch, round_number, device_id, inventory FROM receipts ORDER BY epoch, round_number"
        for epoch, round_number, device_id, inventory in self._database.rows(query):
            rounds.setdefault((int(str(epoch)), int(str(round_number))), {})[str(device_id)] = str(inventory)
        return rounds

    def open_round_log(self, epoch: int, round_number: int) -> RoundLog:
        """Return the log of a round, with what is in it; logs of other rounds are removed."""
        path = self._rounds / f"{epoch:06d}-{round_number:08d}"
        for other in self._rounds.iterdir():
            if other != path:
                other.unlink()
        return RoundLog(path)

    def _whole(self, body: object, digest: object) -> FleetState:
        """Return a version, without earlier plans whose layers are not here any more: nobody can answer those.

        Raises:
            StoreError: If it is damaged, or one of its layers is.
        """
        state = _decode(body)
        if state is None or not isinstance(body, bytes) or hashlib.sha256(body).digest() != digest:
            raise StoreError("a version in the database is damaged")
        for layer in state.layers.values():
            self.layers.load(layer)
        return msgspec.structs.replace(state, earlier_plans=tuple(filter(self._holds, state.earlier_plans)))

    def _holds(self, plan: RoundPlan) -> bool:
        try:
            return all(self.layers.load(layer) for layer in plan.shared_layers.values())
        except StoreError:
            return False

    def _prune(self, changes: sqlite3.Connection) -> None:
        changes.execute(
            "DELETE FROM versions WHERE round_number % ? != 0 AND rowid NOT IN"
            " (SELECT rowid FROM versions ORDER BY epoch DESC, round_number DESC, is_finished DESC LIMIT ?)",
            (KEPT_FOREVER, NUM_VERSIONS),
        )
        changes.execute(
            "DELETE FROM receipts WHERE (epoch, round_number) NOT IN (SELECT epoch, round_number FROM rounds"
            " ORDER BY epoch DESC, round_number DESC LIMIT ?)",
            (NUM_RECEIPTS,),
        )

    def _named(self) -> set[str]:
        """Return the digests that a version names."""
        kept = self._database.rows("SELECT state FROM versions UNION ALL SELECT state FROM requests")
        states = [_decode(body) for (body,) in kept]
        return {digest for state in states if state is not None for digest in state.layers.values()}


def claim_folder(folder: Path) -> IO[str]:
    """Return an open file; until it is closed no aggregator can use this folder.

    Raises:
        StoreError: If one does.
    """
    try:
        lock = (folder / "lock").open("w")
    except OSError as error:
        raise storage_error(folder, error) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        raise StoreError(f"another aggregator uses {folder}; stop it, or choose another `folder`") from error
    return lock


def _add_version(changes: sqlite3.Connection, state: FleetState) -> None:
    body = msgspec.msgpack.encode(state)
    changes.execute(
        "INSERT OR REPLACE INTO versions (epoch, round_number, is_finished, state, sha256) VALUES (?, ?, ?, ?, ?)",
        (state.plan.epoch, state.plan.round_number, state.is_finished, body, hashlib.sha256(body).digest()),
    )


def _decode(body: object) -> FleetState | None:
    """Return the state that these bytes are, if they are one."""
    try:
        return msgspec.msgpack.decode(body, type=FleetState) if isinstance(body, bytes) else None
    except msgspec.DecodeError:
        return None
