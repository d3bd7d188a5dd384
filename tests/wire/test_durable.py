"""A file is whole, old or new, whatever happens while it is written; a disk that refuses is named."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from wire.durable import UNFINISHED, write_durably
from wire.errors import StoreError

# Each runs in a process of its own, since it ends or binds the whole process.
CRASH_BEFORE_RENAME = """
import os, sys
from pathlib import Path
from wire.durable import write_durably

def crash(*_):
    os._exit(9)

Path.replace = crash
write_durably(Path(sys.argv[1]), b"new" * 1000)
"""
FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from wire.durable import write_durably
from wire.errors import StoreError

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_durably(Path(sys.argv[1]), b"new" * 1000)
except StoreError as error:
    sys.exit(str(error))
"""


def run(script: str, path: Path) -> subprocess.CompletedProcess[str]:
    here = Path(__file__).parents[2]
    command = [sys.executable, "-c", script, str(path)]
    return subprocess.run(command, cwd=here, capture_output=True, text=True, timeout=30, check=False)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_holds_what_was_written_last_and_nothing_lies_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "state"
    for data in (b"old", b"", b"new" * 100_000):
        write_durably(path, data)
        assert path.read_bytes() == data
    assert names(tmp_path) == ["state"]


def test_a_crash_before_the_rename_leaves_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "state"
    write_durably(path, b"old")
    assert run(CRASH_BEFORE_RENAME, path).returncode == 9
    assert path.read_bytes() == b"old"
    write_durably(path, b"after the crash")
    assert path.read_bytes() == b"after the crash"
    assert names(tmp_path) == ["state"]


def test_a_full_disk_says_where_and_what_to_do_and_leaves_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "state"
    write_durably(path, b"old")
    said = run(FULL_DISK, path).stderr.strip()
    assert said == f"cannot write {path}: File too large; free some space, or choose another `folder`"
    assert path.read_bytes() == b"old"
    assert not (tmp_path / f"state{UNFINISHED}").exists()


@pytest.mark.parametrize("path", ["missing/state", "file/state", "folder"])
def test_a_place_that_cannot_hold_a_file_is_named(tmp_path: Path, path: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(StoreError, match=f"cannot write .*{path}: "):
        write_durably(tmp_path / path, b"data")
    assert names(tmp_path) == ["file", "folder"]
