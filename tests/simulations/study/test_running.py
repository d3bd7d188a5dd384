from __future__ import annotations

import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

from simulations.rounds.simulation import RoundRecord, Simulation
from simulations.study import running
from simulations.study.cell import PlannedCell
from simulations.study.conduct import Progress, conduct_study
from simulations.study.config import load_study
from simulations.study.crew import run_cells
from simulations.study.material import make_federation
from simulations.study.outcome import CellOutcome
from simulations.study.plan import StudyPlan, plan_study
from simulations.study.running import run_cell, sketch_values
from simulations.study.store import ResultStore
from wire.errors import DataError, ExportError, FleetError

BIN = Path(sys.executable).parent
OWN = """\
scenarios = [{ name = "mine", model = "digits-mlp", folder = "clients" }]
methods = ["local"]
seeds = [0]
engine = "stacked"
[rounds]
num_rounds = 2
"""


def plan(path: Path, old: str = "", new: str = "") -> StudyPlan:
    path.write_text(path.read_text().replace(old, new))
    return plan_study(load_study(path))


def only(path: Path, old: str, new: str) -> PlannedCell:
    return plan(path, old, new).cells[0]


def test_the_same_cell_gives_the_same_outcome(quick: Path) -> None:
    cell = plan(quick).cells[0]
    first, second = run_cell(cell), run_cell(cell)
    assert first.status == "done"
    assert (first.clients, first.rounds) == (second.clients, second.rounds)
    assert [it.round_number for it in first.rounds] == [1, 2, 3, 4]
    assert first.wall_s > 0
    assert re.fullmatch(r"stacked, \d+ clients at once, in this process", first.engine)
    assert first.versions["torch"]


def test_bytes_are_those_of_shared_layers_alone(quick: Path) -> None:
    fedavg, local = (run_cell(cell) for cell in plan(quick).cells)
    num_params = sum(fedavg.layers.values())
    assert {(it.bytes_up, it.bytes_down) for it in fedavg.clients} == {(4 * 4 * num_params, 4 * 4 * num_params)}
    assert {(it.bytes_up, it.bytes_down) for it in local.clients} == {(0, 0)}


def test_bytes_of_a_cohort_are_those_of_its_members(quick: Path) -> None:
    cell = only(quick, "num_rounds = 4", "num_rounds = 4\ncohort_size = 2")
    outcome = run_cell(cell)
    assert sum(it.bytes_up for it in outcome.clients) == 4 * 2 * 4 * sum(outcome.layers.values())


def test_sketches_count_what_crosses_the_wire() -> None:
    sizes = {"conv": 100, "fc": 80_000}
    assert sketch_values(sizes, [], 1024, of_personal=True) == 100 + 1024
    assert sketch_values(sizes, ["conv"], 1024, of_personal=True) == 12 + 1024
    assert sketch_values(sizes, ["fc"], 1024, of_personal=False) == 100
    assert sketch_values(sizes, ["fc"], None, of_personal=False) == 80_000


def test_conflict_is_recorded_where_it_is_wanted(quick: Path) -> None:
    cell = only(quick, "[training]", "[record]\nconflict = true\n[training]")
    assert all(set(it.conflict) == {"fc1", "head"} for it in run_cell(cell).rounds)


def test_a_cell_that_diverges_says_so_and_keeps_its_rounds(quick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Diverging(Simulation):
        def run_round(self) -> RoundRecord:
            if self.round_number == 3:
                raise FleetError("the training of every client diverged in round 3: lower the learning rate")
            return super().run_round()

    monkeypatch.setattr(running, "Simulation", Diverging)
    outcome = run_cell(plan(quick).cells[0])
    assert outcome.status == "diverged"
    assert "lower the learning rate" in outcome.reason
    assert [it.round_number for it in outcome.rounds] == [1, 2]
    assert {it.test_accuracy for it in outcome.clients} == {None}


def test_a_defect_in_a_cell_is_its_outcome(quick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(running, "make_model", broken)
    outcome = run_cell(plan(quick).cells[0])
    assert (outcome.status, outcome.reason) == ("failed", "MemoryError")


def test_a_study_goes_on_where_it_was_stopped(quick: Path, tmp_path: Path) -> None:
    cells = plan(quick, "[0.05]", "[0.05, 0.1]")
    seen: list[Progress] = []

    class StopError(Exception):
        pass

    def stop(progress: Progress) -> None:
        seen.append(progress)
        if progress.num_done == 2:
            raise StopError

    with ResultStore(tmp_path / "r.sqlite") as store:
        with pytest.raises(StopError):
            conduct_study(cells, store, num_processes=1, on_progress=stop)
        assert len(store.statuses()) == 2
        conduct_study(cells, store, num_processes=1, on_progress=seen.append)
        assert len(store.statuses()) == 4
    assert [it.num_done for it in seen] == [0, 1, 2, 2, 3, 4]
    assert seen[0].remaining.num_unknown == 4
    assert seen[3].remaining.num_unknown == 0
    assert seen[3].remaining.seconds > 0


def test_a_changed_study_runs_only_what_it_does_not_have(quick: Path, tmp_path: Path) -> None:
    with ResultStore(tmp_path / "r.sqlite") as store:
        conduct_study(plan(quick), store, num_processes=1)
        before = store.wall_seconds()
        conduct_study(plan(quick, '"local"]', '"local", "fedper"]'), store, num_processes=1)
        after = store.wall_seconds()
    assert len(after) == 3
    assert before.items() <= after.items()


def test_a_cell_that_failed_is_tried_again(quick: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = plan(quick)
    with ResultStore(tmp_path / "r.sqlite") as store:
        with monkeypatch.context() as patched:
            patched.delattr(running, "make_model")
            conduct_study(cells, store, num_processes=1)
        assert set(store.statuses().values()) == {"failed"}
        conduct_study(cells, store, num_processes=1)
        assert set(store.statuses().values()) == {"done"}


@pytest.mark.slow
def test_a_process_that_is_killed_loses_its_own_cell_alone(quick: Path) -> None:
    cells = plan(quick, "num_rounds = 4", "num_rounds = 200").cells
    outcomes: dict[str, CellOutcome] = {}
    for planned, outcome in run_cells([*cells, *_others(cells)], 2):
        if not outcomes:
            os.kill(_worker(), signal.SIGKILL)
        outcomes[planned.digest] = outcome
    assert len(outcomes) == 4
    failed = [it for it in outcomes.values() if it.status == "failed"]
    assert len(failed) <= 1
    assert all("killed by SIGKILL" in it.reason for it in failed)
    assert sum(it.status == "done" for it in outcomes.values()) >= 3


def _others(cells: tuple[PlannedCell, ...]) -> list[PlannedCell]:
    """The same cells under other names."""
    return [msgspec.structs.replace(it, digest=it.digest + "again") for it in cells]


def _worker() -> int:
    """The process of a crew's member that is at work."""
    import multiprocessing  # noqa: PLC0415 - its children are asked for while they run

    return next(it.pid for it in multiprocessing.active_children() if it.pid is not None)


@pytest.mark.slow
def test_a_killed_study_loses_at_most_the_cell_in_flight(quick: Path, tmp_path: Path) -> None:
    quick.write_text(quick.read_text().replace("num_rounds = 4", "num_rounds = 60").replace("[0]", "[0, 1, 2, 3]"))
    command = [str(BIN / "fedlag"), "simulate", "run", str(quick), "--output", str(tmp_path / "out"), "--jobs", "1"]
    results = tmp_path / "out" / "results.sqlite"
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None:
            if results.exists() and _num_cells(results) >= 2:
                process.kill()
    with ResultStore(results) as store:
        before = store.wall_seconds()
        assert 2 <= len(before) < 8
        for digest in before:
            outcome = store.read(digest)
            assert outcome is not None
            assert (outcome.status, len(outcome.rounds), len(outcome.clients)) == ("done", 60, 4)
    done = subprocess.run([*command, "--format", "json"], capture_output=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr.decode()
    with ResultStore(results) as store:
        assert before.items() <= store.wall_seconds().items()
        assert len(store.statuses()) == 8


def _num_cells(results: Path) -> int:
    """How many cells are written; a file in the making has none."""
    try:
        connection = sqlite3.connect(f"file:{results}?mode=ro", uri=True)
    except sqlite3.OperationalError:
        return 0
    try:
        return int(connection.execute("SELECT count(*) FROM cells").fetchone()[0])
    except sqlite3.OperationalError:
        return 0
    finally:
        connection.close()


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A study of the user's own model and data."""
    make_federation.cache_clear()
    path = tmp_path / "own.toml"
    path.write_text(OWN)
    return path


SaveClient = Callable[..., Path]


def test_a_users_own_data_is_learned_from(own: Path, save_client: SaveClient) -> None:
    for name in ("attic", "kitchen"):
        save_client(own.parent / "clients" / f"{name}.npz")
    outcome = run_cell(plan(own).cells[0])
    assert [it.client for it in outcome.clients] == ["attic", "kitchen"]
    assert outcome.warnings == ()


def test_data_that_changed_is_learned_from_again(own: Path, save_client: SaveClient) -> None:
    path = save_client(own.parent / "clients" / "attic.npz")
    before = plan(own).cells[0].digest
    assert plan(own).cells[0].digest == before
    save_client(path, num_train=21)
    make_federation.cache_clear()
    assert plan(own).cells[0].digest != before


def test_a_class_that_nobody_trains_on_is_told(own: Path, save_client: SaveClient) -> None:
    save_client(own.parent / "clients" / "attic.npz", y_test=np.full(8, 9), y_train=np.arange(20) % 9)
    outcome = run_cell(plan(own).cells[0])
    assert outcome.warnings == ("class 9 is in no client's training data, but attic is judged by it",)


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        ({"x_train": np.zeros((0, 64)), "y_train": np.zeros(0, np.int64)}, "attic.npz: y_train is empty"),
        ({"y_train": np.full(20, 10)}, "whole numbers from 0 to 9"),
        ({"y_train": np.full(20, -1)}, "whole numbers from 0 to 9"),
        ({"x_train": np.full((20, 64), np.nan)}, "not finite"),
        ({"x_train": np.zeros((20, 32))}, "expects \\(20, 64\\)"),
        ({"x_train": np.full((20, 64), "a")}, "expected real numbers"),
    ],
)
def test_data_that_cannot_be_learned_from_is_refused(
    own: Path, save_client: SaveClient, arrays: dict[str, np.ndarray], told: str
) -> None:
    save_client(own.parent / "clients" / "attic.npz", **arrays)
    with pytest.raises(DataError, match=told):
        plan(own)


def test_a_folder_without_clients_and_a_model_that_is_none_are_refused(own: Path) -> None:
    with pytest.raises(DataError, match=r"holds no \.npz file"):
        plan(own)
    with pytest.raises(ExportError, match="nobody"):
        plan(own, "digits-mlp", "nobody:knows")
