"""The C interface is compiled once on a device, by whatever is there; what is missing is named."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_client.native.binding import open_library
from edge_client.native.building import (
    HOW_TO_INSTALL,
    build_library,
    compile_library,
    find_compiler,
    find_executorch,
    library_path,
)
from tests.edge_client.native.compiled import load_natively
from wire.errors import ProgramError

ROOT = Path(__file__).parents[3]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "fedlag"


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], None]:
    """Takes the compilers away."""

    def remove() -> None:
        monkeypatch.delenv("CXX", raising=False)
        monkeypatch.setenv("PATH", str(tmp_path))

    return remove


def test_without_a_compiler_it_says_how_to_get_one(cache: Path, no_compiler: Callable[[], None]) -> None:
    no_compiler()
    with pytest.raises(ProgramError, match=r"there is no C\+\+ compiler .*: apt install g\+\+"):
        build_library()
    assert not cache.exists()


@pytest.mark.slow
def test_a_library_is_built_once_and_needs_no_compiler_afterwards(cache: Path, no_compiler: Callable[[], None]) -> None:
    load_natively()
    no_compiler()
    path = build_library()
    assert path.parent == cache
    assert list(cache.iterdir()) == [path]
    open_library(path)


@pytest.mark.slow
def test_two_processes_build_at_once(cache: Path) -> None:
    load_natively()
    for path in cache.iterdir():
        path.unlink()
    code = "from edge_client.native.building import build_library; print(build_library())"
    builds = [
        subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    told = {build.communicate()[0].strip() for build in builds}
    assert [build.returncode for build in builds] == [0, 0]
    assert [str(path) for path in cache.iterdir()] == list(told)
    open_library.__wrapped__(Path(told.pop()))


def test_the_first_of_the_compilers_that_is_there_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("g++", "clang++"):
        (tmp_path / name).touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert find_compiler() == ["g++"]
    monkeypatch.setenv("CXX", "clang++ -march=native")
    assert find_compiler() == ["clang++", "-march=native"]
    monkeypatch.setenv("CXX", "not-there")
    assert find_compiler() == ["g++"]


def test_a_compiler_that_fails_is_named_with_its_reason(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "false")
    with pytest.raises(ProgramError, match=r"false cannot compile runtime.cpp against .*: exit code 1"):
        build_library()
    assert list(cache.iterdir()) == []


def test_headers_that_are_missing_are_named(tmp_path: Path) -> None:
    load_natively()
    with pytest.raises(ProgramError, match=r"cannot compile runtime.cpp against .*executorch/.*\.h"):
        compile_library(find_compiler(), tmp_path, tmp_path / "library.so")


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load_natively()
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(ProgramError, match=r"cannot write .*: Not a directory; XDG_CACHE_HOME names another folder"):
        build_library()


def test_a_cache_that_is_no_whole_path_is_not_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "here")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert library_path(find_executorch()).parent == tmp_path / ".cache" / "fedlag"


def test_without_executorch_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "executorch", None)
    with pytest.raises(ProgramError, match="executorch is not installed: pip install --no-deps executorch=="):
        find_executorch()


def test_the_version_to_install_is_the_one_that_exports() -> None:
    asked = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["export"]
    assert HOW_TO_INSTALL.rpartition(" ")[2] in asked


def test_an_executorch_without_its_libraries_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "executorch").mkdir()
    (tmp_path / "executorch" / "__init__.py").touch()
    monkeypatch.delitem(sys.modules, "executorch", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ProgramError, match=r"has no C\+\+ libraries for Linux, 1.5 or newer has"):
        find_executorch()


def test_a_damaged_library_is_named(tmp_path: Path) -> None:
    path = tmp_path / "library.so"
    path.write_bytes(b"no library")
    with pytest.raises(ProgramError, match=r"cannot load .*library.so: .*; delete it, and it is built again"):
        open_library(path)


BUILD = [sys.executable, "-m", "fedlag", "edge", "build-runtime"]


@pytest.mark.slow
def test_the_command_line_builds_it_and_says_where_it_lies(cache: Path) -> None:
    load_natively()
    done = subprocess.run(BUILD, cwd=ROOT, capture_output=True, text=True, check=True)
    (path,) = cache.iterdir()
    assert done.stdout == f"{path}\n"


@pytest.mark.slow
def test_the_command_line_says_in_one_line_what_is_missing(cache: Path, no_compiler: Callable[[], None]) -> None:
    no_compiler()
    done = subprocess.run(BUILD, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == ProgramError.exit_code
    assert len(done.stderr.splitlines()) == 1
    assert "apt install g++" in done.stderr
    assert not cache.exists()


MEASURE = """
from pathlib import Path
from edge_client.native.building import build_library
from edge_client.native.binding import open_library
open_library(build_library())
status = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
print(int(status["VmRSS"].split()[0]), int(status["Threads"]))
"""


@pytest.mark.slow
def test_an_idle_process_with_the_library_takes_less_than_30_mb_and_one_thread() -> None:
    load_natively()
    done = subprocess.run([sys.executable, "-c", MEASURE], cwd=ROOT, capture_output=True, text=True, check=True)
    resident_kb, threads = map(int, done.stdout.split())
    assert resident_kb < 30_000
    assert threads == 1
