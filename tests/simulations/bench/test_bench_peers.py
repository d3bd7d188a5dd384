"""The comparison with other frameworks counts all that a program costs, and believes no program that did not train."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from scripts.peers import accounting, bench
from scripts.peers.program import Clock
from scripts.peers.results import LOSS_BAND, Run, check_losses, format_json, format_table, summarize

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

# Ends before its grandchild has worked, whose parent has ended too.
ORPHAN = """
import subprocess, sys
work = "import time\\nwhile time.process_time() < .4: pass\\nprint('worked', flush=True)\\ntime.sleep(30)"
middle = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {work!r}])"
subprocess.run([sys.executable, "-c", middle], check=True)
"""


def run(peer: str, repetition: int = 1, cpu_s: float | None = 1.0, **others: float | str) -> Run:
    return replace(Run(peer, "T", repetition, cpu_s_per_round=cpu_s, loss=0.5, initial_loss=2.3), **others)  # type: ignore[arg-type]


def test_what_descends_from_a_marked_process_belongs_to_its_run() -> None:
    assert accounting.with_descendants({2, 7}, {1: 0, 2: 1, 3: 2, 4: 3, 5: 1, 7: 1, 8: 7}) == {2, 3, 4, 7, 8}


@LINUX
@pytest.mark.slow
def test_the_work_of_a_process_without_its_parent_is_counted_and_it_is_seen_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mark = uuid.uuid4().hex
    started = subprocess.Popen(
        [sys.executable, "-c", ORPHAN], env={**bench.surroundings(mark)}, stdout=subprocess.PIPE, text=True
    )
    assert started.stdout is not None
    assert started.stdout.readline() == "worked\n"
    assert started.wait() == 0
    assert accounting.num_alive(mark) == 1
    assert 0.35 < accounting.cpu_s(mark) < 2
    assert accounting.memory_mb(mark) > 1
    monkeypatch.setattr(bench, "LEAVING_S", 0.0)
    bench.see_off(mark)
    started.stdout.read()  # ends when the last process that could write has ended
    started.stdout.close()
    assert accounting.num_alive(mark) == 0


@LINUX
def test_the_first_round_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu_s = iter([7.0, 9.0])
    monkeypatch.setattr(accounting, "cpu_s", lambda _: next(cpu_s))
    clock = Clock("a mark", num_rounds=5, started_s=0.0)
    for _ in range(4):
        clock.end_round()
    with pytest.raises(RuntimeError, match="4 rounds ended, not 5"):
        clock.costs()
    clock.end_round()
    assert clock.costs()["cpu_s_per_round"] == 0.5


def test_a_peer_that_did_not_train_is_an_error() -> None:
    (checked,) = check_losses([run("flower", loss=2.3)])
    assert checked.problem.startswith("did not train")


def test_a_loss_that_is_no_number_is_an_error() -> None:
    serial, nan = check_losses([run("serial"), run("flower", loss=float("nan"))])
    assert not serial.problem
    assert nan.problem


@pytest.mark.parametrize(("share", "is_well"), [(0.9, True), (1.1, False), (-0.9, True), (-1.1, False)])
def test_a_loss_is_held_against_the_serial_loop(share: float, is_well: bool) -> None:
    runs = check_losses([run("serial"), run("pfl", loss=0.5 * (1 + share * LOSS_BAND))])
    assert [not it.problem for it in runs] == [True, is_well]


def test_a_program_that_tells_no_loss_is_shown_without() -> None:
    (row,) = summarize(check_losses([replace(run("ours"), loss=None)]))
    assert (row.loss, row.problem) == (None, "")


def test_a_ratio_is_taken_within_a_repetition_and_a_median_over_them() -> None:
    runs = [run("ours", 1, 1.0), run("pfl", 1, 2.0), run("ours", 2, 10.0), run("pfl", 2, 20.0), run("pfl", 3, 99.0)]
    ours, pfl = summarize(runs)
    assert (ours.cpu_s_per_round, pfl.cpu_s_per_round) == (5.5, 20.0)
    assert (ours.cpu_ratio_to_ours, pfl.cpu_ratio_to_ours) == (1.0, 2.0)
    assert pfl.cpu_ratio_to_serial is None


def test_what_failed_counts_nowhere_and_is_said() -> None:
    rows = summarize([run("ours", 1, 1.0), run("pfl", 1, 50.0, problem="exit code 1"), run("pfl", 2, 2.0)])
    assert rows[1].cpu_s_per_round == 2.0
    assert rows[1].cpu_ratio_to_ours is None
    assert "T pfl: exit code 1" in format_table(rows)


def test_a_table_and_json_say_the_same() -> None:
    runs = [Run("serial", "T", 1, 0.25, 0.5, 3.0, 100.0, 0.5, 2.3, {"torch": "2.13.0"})]
    table = format_table(summarize(runs))
    assert table.splitlines()[1].split() == ["T", "serial", "0.2500", "0.5000", "3.0", "100", "-", "1.00", "0.5000"]
    assert table.endswith("versions: torch 2.13.0")
    answer = json.loads(format_json(summarize(runs), runs, {"rounds": 4}))
    assert answer["rounds"] == 4
    assert answer["rows"][0]["cpu_s_per_round"] == answer["runs"][0]["cpu_s_per_round"] == 0.25


def test_the_command_line_asks_for_all_of_it_unless_told() -> None:
    options = bench.parse([])
    assert options.workload == ["T", "S", "L"]
    assert options.peers == ["flower", "pfl", "pfllib", "serial", "ours"]
    assert bench.parse(["--peers", "serial,ours,serial", "--workload", "S"]).peers == ["serial", "ours"]


@pytest.mark.parametrize("wrong", [["--peers", "fedjax"], ["--rounds", "0"], ["--workload", "XL"], ["--format", "csv"]])
def test_a_wrong_command_line_is_refused(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        bench.parse(wrong)
    assert ended.value.code == 2
    assert wrong[0] in capsys.readouterr().err


def test_ours_is_the_cheapest_engine_that_is_not_the_serial_loop() -> None:
    engines = [{"engine": "serial", "cpu_s_per_round": 0.1}, {"engine": "processes", "cpu_s_per_round": 0.3}]
    engines += [{"engine": "stacked", "cpu_s_per_round": 0.2, "loss": 0.4}, {"engine": "compiled"}]
    best = bench.best_of_ours(json.dumps(engines), Run("ours", "T", 1))
    assert (best.cpu_s_per_round, best.loss, best.versions) == (0.2, 0.4, {"engine T": "stacked"})


@pytest.mark.parametrize("said", ["", "[]", "{}", '[{"engine": "serial", "cpu_s_per_round": 0.1}]'])
def test_ours_is_missing_where_no_engine_was_timed(said: str) -> None:
    assert bench.best_of_ours(said, Run("ours", "T", 1)).problem.startswith("missing")


@pytest.fixture
def one_round() -> Callable[[str], Run]:
    return lambda peer: bench.run_program(peer, Path(sys.executable), "T", 1, 1)


@LINUX
@pytest.mark.slow
def test_the_loops_that_need_no_framework_learn_the_same(one_round: Callable[[str], Run]) -> None:
    serial, pfllib = check_losses([one_round("serial"), one_round("pfllib")])
    assert (serial.problem, pfllib.problem) == ("", "")
    assert serial.loss == pytest.approx(pfllib.loss, rel=1e-4)
    for it in (serial, pfllib):
        assert it.cpu_s_per_round is not None
        assert it.cpu_s_per_round > 0
        assert it.versions["torch"].startswith("2.")


@LINUX
@pytest.mark.slow
def test_ours_sees_the_same_batches_and_learns_what_the_serial_loop_learns(one_round: Callable[[str], Run]) -> None:
    ours, serial = bench.run_ours("T", 1, 1), one_round("serial")
    assert (ours.problem, serial.problem) == ("", "")
    assert ours.loss == pytest.approx(serial.loss, rel=1e-4)


@LINUX
@pytest.mark.slow
def test_a_program_that_fails_is_shown_with_its_last_words(one_round: Callable[[str], Run]) -> None:
    failed = one_round("flower")  # not installed in the project's own environment
    assert failed.problem.startswith("exit code 1")
    assert "flwr" in failed.problem
