"""Files that survive a power cut: written beside, made durable, renamed into place."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from wire.errors import StoreError

__all__ = ["UNFINISHED", "storage_error", "sync_folder", "write_durably"]

UNFINISHED = ".writing"
"""The suffix of a file that is not whole yet; a crash may leave one behind."""


def write_durably(path: Path, data: bytes, mode: int = 0o666) -> None:
    """Return when the file holds exactly these bytes, whatever happens next; until then it holds what it held.

    Args:
        path: The file.
        data: Its bytes.
        mode: Its permissions, less the process's umask; 0o600 for a secret, which is never open to others.

    Raises:
        StoreError: If the disk refuses.
    """
    temporary = path.with_name(path.name + UNFINISHED)
    try:
        temporary.unlink(missing_ok=True)
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        with suppress(OSError):  # a full disk needs the room
            temporary.unlink(missing_ok=True)
        raise storage_error(path, error) from error


def sync_folder(folder: Path) -> None:
    """Return when the names of the files in a folder survive a power cut.

    Raises:
        OSError: If the disk refuses.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def storage_error(path: Path, error: OSError) -> StoreError:
    """Return the error to raise when the disk refuses to write below this path."""
    return StoreError(f"cannot write {path}: {error.strerror}; free some space, or choose another `folder`")
