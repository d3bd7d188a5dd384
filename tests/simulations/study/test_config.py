from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulations.study.cell import Cell, cell_digest, setting_of
from simulations.study.config import DataChoice, TrainingRule, load_study
from simulations.study.plan import plan_studies, plan_study
from simulations.study.sweep import parse_grid, sweep_studies
from wire.errors import ConfigError

CELL = Cell(
    scenario=DataChoice(name="digits-iid"),
    fingerprint="",
    method="fedavg",
    options={},
    seed=0,
    learning_rate=0.1,
    num_rounds=4,
    cohort_size=None,
    sketch_width=64,
    training=TrainingRule(),
    records_conflict=False,
)
CHANGES = {
    "scenario": DataChoice(name="digits-rotations"),
    "fingerprint": "f",
    "method": "local",
    "options": {"pinned": ["head"]},
    "seed": 1,
    "learning_rate": 0.2,
    "num_rounds": 5,
    "cohort_size": 3,
    "sketch_width": 32,
    "training": TrainingRule(momentum=0.0),
    "records_conflict": True,
    "lies": "reversed",
}


@pytest.mark.parametrize("field", Cell.__struct_fields__)
def test_whatever_decides_a_result_changes_the_digest(field: str) -> None:
    assert cell_digest(msgspec.structs.replace(CELL, **{field: CHANGES[field]})) != cell_digest(CELL)


def test_where_the_data_lies_does_not_change_the_digest() -> None:
    moved = msgspec.structs.replace(CELL, scenario=DataChoice(name="digits-iid", folder="/elsewhere"))
    assert cell_digest(moved) == cell_digest(CELL)


def test_cells_that_differ_in_method_seed_or_rate_are_comparable() -> None:
    other = msgspec.structs.replace(CELL, method="local", seed=1, learning_rate=0.2, options={"a": 1})
    assert setting_of(other) == setting_of(CELL)
    assert setting_of(msgspec.structs.replace(CELL, num_rounds=5)) != setting_of(CELL)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("scenarios = ['digits-iid']", "methods"),
        ("scenarios = []\nmethods = ['local']", "scenarios"),
        ("scenarios = ['digits-iid']\nmethods = ['local']\ntint = 1", "tint"),
        ("scenarios = [{name = 'digits-iid', num_cients = 3}]\nmethods = ['local']", "num_cients"),
        ("scenarios = ['digits-iid']\nmethods = ['local']\n[training]\nlearning_rates = [0]", "learning_rates"),
        ("scenarios = ['digits-iid']\nmethods = ['local']\nseeds = [3, 3]", "seed 3 is there twice"),
        (
            "scenarios = ['digits-iid']\nmethods = ['local']\n[training]\noptimizer = 'adam'\nnesterov = true",
            "nesterov looks ahead",
        ),
        ("scenarios = ['digits-iid']\nmethods = ['local']\n[training]\nwarmup_rounds = 40", "leaves none of 40"),
        ("scenarios = ['digits-iid'\n", "is not TOML"),
        ("scenarios = ['digits-iid']\nmethods = ['magic']", "no method is named 'magic'"),
        ("scenarios = ['digits-iid']\nmethods = [{name = 'fedper', options = {num = 1}}]", "no option 'num'"),
        ("scenarios = ['digits-iid']\nmethods = ['mask-conv1']", "no layer 'conv1'"),
        ("scenarios = ['moon']\nmethods = ['local']", "no scenario is named 'moon'"),
        ("scenarios = ['digits-iid']\nmethods = ['local', 'local']", "are the same"),
        ("scenarios = ['digits-iid']\nmethods = ['local']\nengine = 'warp'", "no engine is called 'warp'"),
        ("scenarios = ['digits-iid']\nmethods = ['local']\n[rounds]\ncohort_size = 21", "a cohort of 21"),
        ("scenarios = [{name = 'mine', model = 'digits-mlp'}]\nmethods = ['local']", "name the folder"),
        ("scenarios = ['cifar10-pathological']\nmethods = ['local']", "name the folder"),
    ],
)
def test_a_wrong_study_is_refused_and_told_why(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "study.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=told):
        plan_study(load_study(path))


def test_a_missing_study_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read the study"):
        load_study(tmp_path / "absent.toml")


def test_a_plan_has_every_combination_once(quick: Path) -> None:
    quick.write_text(quick.read_text().replace("[0]", "[0, 1]").replace("[0.05]", "[0.05, 0.1]"))
    plan = plan_study(load_study(quick))
    assert len(plan.cells) == len({it.digest for it in plan.cells}) == 2 * 2 * 2


def test_masks_are_all_choices_of_layers(quick: Path) -> None:
    quick.write_text(quick.read_text().replace('["fedavg", "local"]', '["masks"]'))
    names = [it.method for it in plan_study(load_study(quick)).cells]
    assert names == ["mask-none", "mask-fc1", "mask-head", "mask-fc1+head"]


@given(values=st.lists(st.integers(1, 999) | st.floats(-1, 1).map(lambda it: round(it, 4)), min_size=1, max_size=5))
def test_a_grid_reads_back_what_was_written(values: list[int | float]) -> None:
    grid = parse_grid(f"training.momentum={','.join(map(str, values))}")
    assert list(grid.values) == values


@pytest.mark.parametrize(
    "text", ["momentum=1", "rounds.cohort_size", "rounds.cohort_size=", "a.b.c.d=1", "methods.x=1"]
)
def test_what_is_no_grid_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is not KEY=VALUE"):
        parse_grid(text)


def test_a_sweep_runs_every_combination(quick: Path) -> None:
    tree = {"scenarios": ["digits-iid"], "methods": ["local", {"name": "fedlag-paper", "options": {"num_personal": 1}}]}
    grids = [
        parse_grid(text)
        for text in (
            "methods.fedlag-paper.conflict_threshold=0.0,-0.1",
            "rounds.cohort_size=2,3",
            "training.learning_rates=0.1,0.2",
            "scenarios.num_clients=4",
        )
    ]
    plan = plan_studies(sweep_studies(tree, quick, grids))
    assert {it.scenario for it in plan.cells} == {f"digits-iid cohort_size={n}, num_clients=4" for n in (2, 3)}
    assert {it.method for it in plan.cells} == {
        "local",
        "fedlag-paper num_personal=1, conflict_threshold=0.0",
        "fedlag-paper num_personal=1, conflict_threshold=-0.1",
    }
    assert len(plan.cells) == 2 * 3 * 2 * 3
    assert {it.cell.cohort_size for it in plan.cells} == {2, 3}


def test_a_sweep_of_a_method_that_is_not_there_is_refused(quick: Path) -> None:
    with pytest.raises(ConfigError, match="the study has no method 'fedper'"):
        sweep_studies({"methods": ["local"]}, quick, [parse_grid("methods.fedper.num_personal=1")])


def test_a_scenario_may_have_rates_a_cohort_and_liars_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_text("""\
scenarios = [
  { name = "digits-iid", label = "honest" },
  { name = "digits-iid", label = "lied to", lies = "inflated", cohort_size = 5, learning_rates = [0.2, 0.4] },
]
methods = ["fedlag-swap"]
seeds = [0]
[rounds]
num_rounds = 3
[training]
learning_rates = [0.1]
""")
    found = [
        (it.scenario, it.cell.lies, it.cell.cohort_size, it.cell.learning_rate)
        for it in plan_study(load_study(path)).cells
    ]
    assert found == [("honest", None, None, 0.1), ("lied to", "inflated", 5, 0.2), ("lied to", "inflated", 5, 0.4)]


@pytest.mark.parametrize("option", [{"optimizer": "adamw"}, {"proximal": 0.1}, {"schedule": "cosine"}])
def test_what_training_was_given_later_gives_a_cell_another_name_only_where_it_says_something(
    option: dict[str, object],
) -> None:
    training = msgspec.convert(option, TrainingRule)
    assert cell_digest(msgspec.structs.replace(CELL, training=training)) != cell_digest(CELL)
    assert cell_digest(CELL) == cell_digest(msgspec.structs.replace(CELL, training=TrainingRule()))


def test_a_rate_that_a_scenario_names_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_text('scenarios = [{ name = "digits-iid", learning_rates = [0.2, 0.2] }]\nmethods = ["fedavg"]\n')
    with pytest.raises(ConfigError, match=r"learning rate 0\.2 is there twice"):
        load_study(path)


def test_a_cell_that_asks_everyone_keeps_its_digest_whatever_becomes_of_cohorts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asks_some = msgspec.structs.replace(CELL, cohort_size=3)
    before = cell_digest(CELL), cell_digest(asks_some)
    monkeypatch.setattr("simulations.study.cell.COHORT_DRAW", 99)
    assert cell_digest(CELL) == before[0]
    assert cell_digest(asks_some) != before[1]
