"""The aggregator's database: one SQLite file, whose schema grows by migrations.

It is in WAL mode: others may read while the aggregator writes, and a transaction is whole or not there, whatever is killed.
``synchronous = FULL`` makes it durable when it returns.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from wire.errors import StoreError

__all__ = ["MIGRATIONS", "Database", "whole_or_nothing"]

MIGRATIONS = (
    """
    CREATE TABLE settings (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE versions (
        epoch INTEGER, round_number INTEGER, is_finished INTEGER,
        state BLOB NOT NULL, sha256 BLOB NOT NULL, saved_at TEXT NOT NULL DEFAULT (datetime('now')),
        PRIMARY KEY (epoch, round_number, is_finished)
    );
    CREATE TABLE requests (id INTEGER PRIMARY KEY, state BLOB NOT NULL);
    CREATE TABLE rounds (
        epoch INTEGER, round_number INTEGER,
        plan TEXT NOT NULL, report TEXT NOT NULL, closed_at TEXT NOT NULL DEFAULT (datetime('now')),
        PRIMARY KEY (epoch, round_number)
    );
    CREATE TABLE receipts (
        epoch INTEGER, round_number INTEGER, device_id TEXT, inventory TEXT NOT NULL,
        PRIMARY KEY (epoch, round_number, device_id)
    ) WITHOUT ROWID;
    CREATE TABLE devices (
        device_id TEXT PRIMARY KEY,
        counted INTEGER NOT NULL DEFAULT 0, refused INTEGER NOT NULL DEFAULT 0, missed INTEGER NOT NULL DEFAULT 0,
        last_refusal TEXT NOT NULL DEFAULT '', last_counted_at TEXT,
        first_round_at TEXT NOT NULL DEFAULT (datetime('now'))
    ) WITHOUT ROWID
    """,
)
"""What leads from each version of the schema to the next; ``PRAGMA user_version`` counts them. Never changed, only added to."""


@contextmanager
def whole_or_nothing(connection: sqlite3.Connection) -> Iterator[None]:
    """Commit all that is done within, or nothing, on a connection in autocommit mode."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


class Database:
    """The database of one fleet.

    Args:
        path: The file; made if it is missing.

    Raises:
        StoreError: If the disk refuses, the file is damaged, or a later version of fedlag wrote it; so do all its methods.
    """

    def __init__(self, path: Path) -> None:
        """Open it, check it and bring it to the newest schema."""
        self._path = path
        with self._explained():
            self._connection = sqlite3.connect(path, isolation_level=None)
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = FULL")
            (found,) = self._connection.execute("PRAGMA quick_check(1)").fetchone()
            if found != "ok":
                raise sqlite3.DatabaseError(found.rpartition("\n")[2])
            self._migrate()

    def rows(self, query: str, *values: object) -> list[tuple[object, ...]]:
        """Return the rows that a query finds."""
        with self._explained(), closing(self._connection.execute(query, values)) as cursor:
            return cursor.fetchall()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Commit all that is done within, or nothing."""
        with self._explained(), whole_or_nothing(self._connection):
            yield self._connection

    def copy_to(self, path: Path) -> None:
        """Write the database as it is now to another file, while others may write."""
        with self._explained(), closing(sqlite3.connect(path)) as copy:
            self._connection.backup(copy)

    def close(self) -> None:
        """Close the file; its log is joined with it."""
        self._connection.close()

    def _migrate(self) -> None:
        if self._version() == len(MIGRATIONS):
            return  # without a write: people look at a fleet while its disk is full
        with self.transaction() as changes:  # somebody else may have done it meanwhile
            version = self._version()
            if version > len(MIGRATIONS):
                raise StoreError(
                    f"{self._path} was written by a later version of fedlag (schema {version}, this one knows"
                    f" {len(MIGRATIONS)}); upgrade fedlag, or restore a backup that it made itself"
                )
            for statement in ";".join(MIGRATIONS[version:]).split(";"):
                changes.execute(statement)
            changes.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")

    def _version(self) -> int:
        return int(self._connection.execute("PRAGMA user_version").fetchone()[0])

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn what SQLite complains about into what to do."""
        try:
            yield
        except sqlite3.OperationalError as error:
            raise StoreError(
                f"cannot write {self._path}: {error}; free some space, or see who else uses this folder"
            ) from error
        except sqlite3.DatabaseError as error:
            raise StoreError(
                f"{self._path} is damaged ({error}); bring back a copy of the folder with `fedlag restore`"
            ) from error
