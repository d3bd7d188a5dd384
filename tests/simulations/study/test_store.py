from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from simulations.study.cell import PlannedCell
from simulations.study.config import load_study
from simulations.study.outcome import CellOutcome
from simulations.study.plan import StudyPlan, plan_study
from simulations.study.store import STORE_FORMAT, ResultStore
from wire.errors import DataError, FedlagError, StoreError

MakeCell = Callable[..., PlannedCell]
MakeOutcome = Callable[..., CellOutcome]


def test_what_was_written_is_read_back(tmp_path: Path, make_cell: MakeCell, make_outcome: MakeOutcome) -> None:
    planned = make_cell()
    outcome = make_outcome(planned, {"a": 0.5, "b": None})
    with ResultStore(tmp_path / "r.sqlite") as store:
        store.write(planned, outcome)
    with ResultStore(tmp_path / "r.sqlite", must_exist=True) as store:
        assert store.read(planned.digest) == outcome
        short = store.read(planned.digest, with_rounds=False)
        assert short == msgspec.structs.replace(outcome, rounds=())
        assert store.score(planned.digest) == pytest.approx(0.5)
        assert store.statuses() == {planned.digest: "done"}
        assert store.wall_seconds() == {planned.digest: 2.0}
        assert store.read("another") is None


def test_a_cell_that_is_run_again_replaces_the_older_outcome(
    tmp_path: Path, make_cell: MakeCell, make_outcome: MakeOutcome
) -> None:
    planned = make_cell()
    with ResultStore(tmp_path / "r.sqlite") as store:
        store.write(planned, make_outcome(planned, {"a": 0.5, "b": 0.6}))
        second = make_outcome(planned, {"a": 0.75})
        store.write(planned, second)
        assert store.read(planned.digest) == second


def test_a_plan_is_read_back_and_replaced(quick: Path, tmp_path: Path) -> None:
    plan = plan_study(load_study(quick))
    with ResultStore(tmp_path / "r.sqlite") as store:
        store.write_plan(plan)
        smaller = StudyPlan(name="less", reference="local", cells=plan.cells[:1])
        store.write_plan(smaller)
        assert store.read_plan() == smaller


def test_a_cell_that_cannot_be_written_leaves_nothing_behind(
    tmp_path: Path, make_cell: MakeCell, make_outcome: MakeOutcome
) -> None:
    planned = make_cell()
    outcome = make_outcome(planned, {"a": 0.5})
    broken = msgspec.structs.replace(outcome, rounds=(outcome.rounds[0], outcome.rounds[0]))
    with ResultStore(tmp_path / "r.sqlite") as store:
        with pytest.raises(FedlagError):
            store.write(planned, broken)
        assert store.statuses() == {}
        assert store.read(planned.digest) is None


def test_results_of_a_newer_format_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    ResultStore(path).__exit__()
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version = {STORE_FORMAT + 1}")
    connection.close()
    with pytest.raises(DataError, match="read it with a newer one"):
        ResultStore(path)


def test_what_holds_no_results_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not a database, but long enough to be read as one " * 40)
    with pytest.raises(DataError, match="damaged"):
        ResultStore(tmp_path / "text")
    with sqlite3.connect(tmp_path / "other") as connection:
        connection.execute("CREATE TABLE mine (x)")
    connection.close()
    with pytest.raises(DataError, match="not one of a study"):
        ResultStore(tmp_path / "other")
    with pytest.raises(DataError, match="there are no results"):
        ResultStore(tmp_path / "absent", must_exist=True)
    with ResultStore(tmp_path / "new") as store, pytest.raises(DataError, match="no study yet"):
        store.read_plan()


def test_an_unwritable_output_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="choose another --output"):
        ResultStore(tmp_path / "no" / "such" / "folder.sqlite")


@pytest.mark.slow
def test_a_file_that_many_make_at_once_is_made_once(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from simulations.study.store import ResultStore\n"
        "for name in range(20): ResultStore(Path(sys.argv[1], str(name))).__exit__()"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    running = [subprocess.Popen(command, cwd=Path(__file__).parents[3]) for _ in range(3)]
    assert [it.wait(timeout=100) for it in running] == [0, 0, 0]
