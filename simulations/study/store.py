"""A study's results on disk: one SQLite file, into which every cell is written whole as soon as it is done.

``cells`` holds all that was ever computed, by digest; ``plan`` says of which cells the study consists now. So a changed
study finds what it still needs, and a study that was killed goes on where it was.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec

from aggregator.keeping.database import whole_or_nothing
from simulations.study.cell import PlannedCell
from simulations.study.outcome import CellOutcome, ClientOutcome, RoundOutcome, validation_score
from simulations.study.plan import StudyPlan
from wire.errors import DataError, StoreError

__all__ = ["STORE_FORMAT", "ResultStore"]

STORE_FORMAT = 1
APPLICATION = 0x4645444C
"""``FEDL``, at byte 68 of the file: what tells a study's results from other databases."""

BUSY_S = 30.0
JSON_COLUMNS = frozenset(
    {"cell", "layers", "warnings", "versions", "personal_layers", "reasons", "conflict", "swap_gains"}
)
CELL_COLUMNS = (
    "digest",
    "status",
    "reason",
    "engine",
    "wall_s",
    "cpu_s",
    "layers",
    "warnings",
    "versions",
    "code_commit",
)
SCHEMA = """
CREATE TABLE study (name TEXT NOT NULL, reference TEXT NOT NULL);
CREATE TABLE plan (
    digest TEXT PRIMARY KEY, place INTEGER NOT NULL, scenario TEXT NOT NULL, method TEXT NOT NULL, engine TEXT NOT NULL,
    cell TEXT NOT NULL
);
CREATE TABLE cells (
    digest TEXT PRIMARY KEY, cell TEXT NOT NULL, status TEXT NOT NULL, reason TEXT NOT NULL, validation_score REAL,
    test_accuracy REAL, engine TEXT NOT NULL, wall_s REAL NOT NULL, cpu_s REAL NOT NULL, layers TEXT NOT NULL,
    warnings TEXT NOT NULL, versions TEXT NOT NULL, code_commit TEXT NOT NULL,
    finished TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP
);
CREATE TABLE clients (
    digest TEXT NOT NULL REFERENCES cells ON DELETE CASCADE, client TEXT NOT NULL, num_train INTEGER NOT NULL,
    test_accuracy REAL, bytes_up INTEGER NOT NULL, bytes_down INTEGER NOT NULL, PRIMARY KEY (digest, client)
) WITHOUT ROWID;
CREATE TABLE rounds (
    digest TEXT NOT NULL REFERENCES cells ON DELETE CASCADE, round_number INTEGER NOT NULL, train_loss REAL,
    validation_accuracy REAL NOT NULL, validation_loss REAL NOT NULL, num_diverged INTEGER NOT NULL,
    personal_layers TEXT NOT NULL, reasons TEXT NOT NULL, conflict TEXT NOT NULL, swap_gains TEXT NOT NULL,
    PRIMARY KEY (digest, round_number)
) WITHOUT ROWID;
"""


class ResultStore:
    """A file of results, open.

    Args:
        path: The file.
        must_exist: Whether a missing file is refused instead of made.

    Raises:
        DataError: If the file is missing or is no such file, or was written by a newer FedLAG Edge.
        StoreError: If the disk refuses.
    """

    def __init__(self, path: Path, *, must_exist: bool = False) -> None:
        """Open the file, or make it."""
        self.path = path
        if must_exist and not path.is_file():
            raise DataError(f"there are no results at {path}; `fedlag simulate run` writes them")
        with self._refusals():
            self._connection = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None)
            try:
                self._open()
            except BaseException:
                self._connection.close()
                raise

    def __enter__(self) -> ResultStore:  # noqa: PYI034 - beartype takes Self of checked classes alone
        """Return the store itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self._connection.close()

    def write_plan(self, plan: StudyPlan) -> None:
        """Say of which cells the study consists now."""
        with self._transaction() as connection:
            connection.execute("DELETE FROM study")
            connection.execute("DELETE FROM plan")
            connection.execute("INSERT INTO study VALUES (?, ?)", (plan.name, plan.reference))
            rows = [
                (it.digest, place, it.scenario, it.method, it.engine, _json(it.cell))
                for place, it in enumerate(plan.cells)
            ]
            connection.executemany("INSERT INTO plan VALUES (?, ?, ?, ?, ?, ?)", rows)

    def read_plan(self) -> StudyPlan:
        """Return the study that was planned last.

        Raises:
            DataError: If none was, or the file is damaged.
        """
        with self._refusals():
            head = self._connection.execute("SELECT name, reference FROM study").fetchone()
            rows = self._select("plan", PlannedCell.__struct_fields__, "ORDER BY place")
            if head is None or not rows:
                raise DataError(f"{self.path} holds no study yet; run one")
            return StudyPlan(name=head[0], reference=head[1], cells=msgspec.convert(rows, tuple[PlannedCell, ...]))

    def write(self, planned: PlannedCell, outcome: CellOutcome) -> None:
        """Write one cell's outcome whole, in the place of an older one."""
        known = [it.test_accuracy for it in outcome.clients if it.test_accuracy is not None]
        cell = {
            "digest": outcome.digest,
            "cell": _json(planned.cell),
            "status": outcome.status,
            "reason": outcome.reason,
            "validation_score": validation_score(outcome.rounds),
            "test_accuracy": sum(known) / len(known) if known else None,
            "engine": outcome.engine,
            "wall_s": outcome.wall_s,
            "cpu_s": outcome.cpu_s,
            "layers": _json(outcome.layers),
            "warnings": _json(outcome.warnings),
            "versions": _json(outcome.versions),
            "code_commit": outcome.commit,
        }
        with self._transaction() as connection:
            connection.execute("DELETE FROM cells WHERE digest = ?", (outcome.digest,))
            _insert(connection, "cells", [cell])
            _insert(connection, "clients", [{"digest": outcome.digest, **_row(it)} for it in outcome.clients])
            _insert(connection, "rounds", [{"digest": outcome.digest, **_row(it)} for it in outcome.rounds])

    def statuses(self) -> dict[str, str]:
        """Return digest -> status of all cells that were ever run."""
        with self._refusals():
            return dict(self._connection.execute("SELECT digest, status FROM cells").fetchall())

    def wall_seconds(self) -> dict[str, float]:
        """Return digest -> how long its cell took."""
        with self._refusals():
            return dict(self._connection.execute("SELECT digest, wall_s FROM cells").fetchall())

    def read(self, digest: str, *, with_rounds: bool = True) -> CellOutcome | None:
        """Return a cell's outcome; None if it was not run yet.

        Args:
            digest: The cell's.
            with_rounds: Whether its rounds are wanted.

        Raises:
            DataError: If the file is damaged.
        """
        with self._refusals():
            found = self._select("cells", CELL_COLUMNS, "WHERE digest = ?", digest)
            if not found:
                return None
            tree = {**found[0], "commit": found[0]["code_commit"]}
            fields = ClientOutcome.__struct_fields__
            tree["clients"] = self._select("clients", fields, "WHERE digest = ? ORDER BY client", digest)
            if with_rounds:
                fields = RoundOutcome.__struct_fields__
                tree["rounds"] = self._select("rounds", fields, "WHERE digest = ? ORDER BY round_number", digest)
            return msgspec.convert(tree, CellOutcome)

    def score(self, digest: str) -> float | None:
        """Return the validation score of a cell that is done; None of any other."""
        with self._refusals():
            row = self._connection.execute(
                "SELECT validation_score FROM cells WHERE digest = ? AND status = 'done'", (digest,)
            ).fetchone()
        return None if row is None else row[0]

    def _select(self, table: str, names: Sequence[str], clause: str, *values: str) -> list[dict[str, Any]]:
        query = f"SELECT {', '.join(names)} FROM {table} {clause}"  # noqa: S608 - our own names
        return [
            {
                name: msgspec.json.decode(value) if name in JSON_COLUMNS else value
                for name, value in zip(names, row, strict=True)
            }
            for row in self._connection.execute(query, values)
        ]

    def _open(self) -> None:
        """Check what the file is, or make it what it should be, though others may open it at the same time."""
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        application = connection.execute("PRAGMA application_id").fetchone()[0]
        stored = connection.execute("PRAGMA user_version").fetchone()[0]
        is_empty = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0] == 0
        if not is_empty and application != APPLICATION:
            raise DataError(f"{self.path} is a database, but not one of a study; name another file")
        if stored > STORE_FORMAT:
            raise DataError(
                f"{self.path} has format {stored}, and this FedLAG Edge knows {STORE_FORMAT} at most: "
                "read it with a newer one, or name another --output"
            )
        if is_empty:
            for statement in (*SCHEMA.split(";"), f"PRAGMA application_id = {APPLICATION}"):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {STORE_FORMAT}")
        connection.execute("COMMIT")
        connection.execute("PRAGMA foreign_keys = ON")
        with suppress(sqlite3.OperationalError):  # somebody writes: then the next to open switches it, or they have
            connection.execute("PRAGMA journal_mode = WAL")

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Write all of it, or nothing."""
        with self._refusals(), whole_or_nothing(self._connection):
            yield self._connection

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        """Say in words what SQLite refuses."""
        try:
            yield
        except (sqlite3.OperationalError, OSError) as error:
            raise StoreError(f"cannot use {self.path}: {error}; choose another --output, or make room") from error
        except (sqlite3.DatabaseError, msgspec.MsgspecError) as error:
            raise DataError(f"{self.path} is damaged, or holds no results of a study: {error}") from error


def _insert(connection: sqlite3.Connection, table: str, rows: Sequence[dict[str, Any]]) -> None:
    """Insert rows, which all have the same columns."""
    if rows:
        names = ", ".join(rows[0])
        marks = ", ".join(f":{name}" for name in rows[0])
        connection.executemany(f"INSERT INTO {table} ({names}) VALUES ({marks})", rows)  # noqa: S608 - our own names


def _row(it: ClientOutcome | RoundOutcome) -> dict[str, Any]:
    return {name: _json(value) if name in JSON_COLUMNS else value for name, value in msgspec.structs.asdict(it).items()}


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
