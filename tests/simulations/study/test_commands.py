"""The command line of studies, and every command and table of its page."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from simulations import commands
from simulations.data.scenarios import SCENARIOS
from simulations.rounds.methods import METHODS
from simulations.study.config import (
    MethodChoice,
    RecordChoice,
    RoundChoice,
    ScenarioChoice,
    StudyConfig,
    TrainingChoice,
    load_study,
    parse_study,
)
from simulations.study.plan import plan_study
from wire.errors import ConfigError, DataError, FleetError, StoreError

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "simulations.md"
STUDIES = ROOT / "examples" / "studies"

SaveClient = Callable[..., Path]


@pytest.fixture(autouse=True)
def own_signals() -> Iterator[None]:
    """The command line takes signals over; pytest gets its own back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def simulate(*arguments: str | Path) -> int:
    """Run a command; return the exit code that typer gives."""
    with pytest.raises(SystemExit) as ended:
        commands.main([str(it) for it in arguments])
    code = ended.value.code
    return code if isinstance(code, int) else 0


def test_a_study_prints_what_its_files_hold(quick: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert simulate("run", quick, "--output", tmp_path / "out", "--jobs", "1", "--format", "json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "out" / "summary.json").read_text())
    assert [it["method"] for it in printed["scenarios"][0]["methods"]] == ["fedavg", "local"]
    assert "digits-iid" in (tmp_path / "out" / "report.html").read_text()
    assert simulate("compare", tmp_path / "out" / "results.sqlite") == 0
    assert "fedavg" in capsys.readouterr().out


def test_two_studies_are_compared_or_refused(quick: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    simulate("run", quick, "--output", tmp_path / "a", "--jobs", "1")
    quick.write_text(quick.read_text().replace('"fedavg"', '"fedper"'))
    simulate("run", quick, "--output", tmp_path / "b", "--jobs", "1")
    both = [tmp_path / name / "results.sqlite" for name in "ab"]
    capsys.readouterr()
    assert simulate("compare", *both, "--output", tmp_path / "both", "--format", "json") == 0
    names = [it["method"] for it in json.loads(capsys.readouterr().out)["scenarios"][0]["methods"]]
    assert names == ["fedavg", "local (a)", "fedper", "local (b)"]
    assert (tmp_path / "both" / "report.html").exists()
    quick.write_text(quick.read_text().replace("num_rounds = 4", "num_rounds = 5"))
    simulate("run", quick, "--output", tmp_path / "c", "--jobs", "1")
    with pytest.raises(ConfigError, match="num_rounds is 4 in a and 5 in c"):
        commands.main(["compare", str(both[0]), str(tmp_path / "c" / "results.sqlite")])


def test_a_cell_that_failed_ends_the_command_with_its_reason_told(
    quick: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("simulations.study.running.make_model")
    with pytest.raises(FleetError, match="2 of the study did not work"):
        commands.main(["run", str(quick), "--output", str(tmp_path / "out"), "--jobs", "1"])
    assert "NameError" in capsys.readouterr().err
    assert "NameError" in (tmp_path / "out" / "report.html").read_text()


def test_what_is_surprising_in_the_data_is_told(
    tmp_path: Path, save_client: SaveClient, capsys: pytest.CaptureFixture[str]
) -> None:
    save_client(tmp_path / "clients" / "attic.npz", classes=8)
    save_client(tmp_path / "clients" / "kitchen.npz", classes=8, num_train=6)
    shutil.copy(STUDIES / "own.toml", tmp_path)
    (tmp_path / "clients" / "attic.npz").unlink()
    assert simulate("run", tmp_path / "own.toml", "--output", tmp_path / "out", "--jobs", "1") == 0
    told = "class 6 is in no client's training data, but kitchen is judged by it"
    assert told in " ".join(capsys.readouterr().err.split())
    assert told.replace("'", "&#39;") in (tmp_path / "out" / "report.html").read_text()


def test_an_interrupted_study_says_how_it_goes_on(
    quick: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "_run", interrupted)
    assert simulate("run", quick, "--output", tmp_path / "out") == 130
    assert "the same command goes on from there" in " ".join(capsys.readouterr().err.split())


def test_an_output_that_cannot_be_written_is_refused(quick: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="choose another --output"):
        commands.main(["run", str(quick), "--output", str(tmp_path / "file" / "out")])
    with pytest.raises(DataError, match="no results at"):
        commands.main(["compare", str(tmp_path / "absent.sqlite")])


@pytest.mark.slow
def test_the_commands_of_the_page_run(tmp_path: Path) -> None:
    shutil.copytree(STUDIES, tmp_path / "examples" / "studies")
    for study in (tmp_path / "examples" / "studies").glob("*.toml"):  # as many commands, less training
        study.write_text(re.sub("num_rounds = .*", "num_rounds = 2", study.read_text()).replace("[0, 1]", "[0]"))
    blocks = re.findall(r"```sh\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    assert len(lines) == 3
    for line in lines:
        words = shlex.split(line)
        command = [str(Path(sys.executable).with_name(words[0])), *words[1:]]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, f"{line}: {done.stderr}"
    assert {it.name for it in tmp_path.iterdir()} == {"examples", "quick", "grid"}
    assert (tmp_path / "grid" / "report.html").exists()


def test_the_study_in_the_page_is_whole(tmp_path: Path) -> None:
    (block,) = re.findall(r"```toml\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    tree = tomllib.loads(block)
    parse_study(tree, tmp_path / "study.toml")
    assert set(tree) == set(StudyConfig.__struct_fields__)
    for name, kind in (("rounds", RoundChoice), ("training", TrainingChoice), ("record", RecordChoice)):
        assert set(tree[name]) == set(kind.__struct_fields__)
    scenarios = [it for it in tree["scenarios"] if isinstance(it, dict)]
    assert set[str]().union(*scenarios) == set(ScenarioChoice.__struct_fields__)
    methods = [it for it in tree["methods"] if isinstance(it, dict)]
    assert set[str]().union(*methods) == set(MethodChoice.__struct_fields__)


def test_the_page_lists_every_scenario_and_method() -> None:
    scenarios, methods = re.split(r"^## Methods$", PAGE.read_text(), flags=re.MULTILINE)
    rows = re.findall(r"^\| `([^`]+)` \| (.*) \| `([^`]+)` \|$", scenarios, flags=re.MULTILINE)
    assert rows == [(name, it.about, it.model) for name, it in SCENARIOS.items()]
    named = re.findall(r"`([^`]+)`", " ".join(re.findall(r"^\| (.*?) \|", methods, flags=re.MULTILINE)))
    assert set(named) == {*METHODS, "masks", "mask-LAYER+LAYER"}


@pytest.mark.parametrize("path", sorted(STUDIES.glob("*.toml")), ids=lambda path: path.stem)
def test_a_ready_study_can_be_planned_or_says_which_data_it_lacks(path: Path) -> None:
    study = load_study(path)
    if path.stem in {"quick", "smartwatch"}:
        assert plan_study(study).cells
    elif path.stem not in {"fashion", "few-and-many"}:  # Debian's package may be there or not
        with pytest.raises(DataError, match=r"expected|holds no|cannot read|missing|no folder"):
            plan_study(study)
