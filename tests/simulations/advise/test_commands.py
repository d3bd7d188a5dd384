"""The verb, from a folder of data to a fleet's configuration."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aggregator.config import AggregatorConfig
from simulations.advise import commands
from simulations.data.scenarios import make_scenario
from wire.errors import ConfigError, DataError, FedlagError, StoreError
from wire.settings import load_settings

SaveRows = Callable[..., Path]

QUICK = ["--rounds", "6", "--seeds", "1", "--learning-rates", "0.1", "--jobs", "1"]


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    """Four cameras, each turned its own way, in one .npz without splits."""
    clients = make_scenario("digits-rotations", 0, num_clients=4, examples_per_client=40).clients
    x = np.concatenate([data.train.inputs for data in clients.values()])
    y = np.concatenate([data.train.targets for data in clients.values()])
    device = np.repeat(list(clients), [len(data.train.targets) for data in clients.values()])
    np.savez(tmp_path / "digits.npz", allow_pickle=False, x=x, y=y, device=device)
    return tmp_path / "digits.npz"


@pytest.fixture(autouse=True)
def _path_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))


def advise(*arguments: object) -> None:
    with pytest.raises(SystemExit) as ended:
        commands.app(args=list(map(str, arguments)), prog_name="fedlag advise")
    assert ended.value.code in {0, None}


@pytest.mark.slow
def test_a_user_gets_advice_and_a_configuration_and_keeps_both(
    digits: Path, tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "advice"
    advise("digits-mlp", digits, *QUICK, "--output", output)
    told = capsysbinary.readouterr()
    for heading in (b"Which rule", b"Which layers", b"What to expect", b"Be careful", b"Written"):
        assert heading in told.out
    assert b"5/5" in told.err
    config = load_settings(output / "aggregator.toml", AggregatorConfig)
    written: dict[str, Any] = json.loads((output / "advice.json").read_bytes())
    assert config.selector.name == written["advice"]["rule"]
    assert config.training.learning_rate == written["advice"]["learning_rate"] == 0.1
    assert [it["method"] for it in written["advice"]["methods"]] == [
        "fedavg", "local", "fedper", "fedlag-swap", "fedlag-paper",
    ]  # fmt: skip
    assert set(written["result"]["conflict"]) == {"fc1", "head"}

    with pytest.raises(ConfigError, match="is there already"):
        commands.app(args=["digits-mlp", str(digits), *QUICK, "--output", str(output)])

    def refuse(*_: object) -> None:
        raise AssertionError("a cell was run again")

    monkeypatch.setattr("simulations.study.crew.run_cell", refuse)
    advise("digits-mlp", digits, *QUICK, "--output", output, "--force", "--format", "json")
    assert json.loads(capsysbinary.readouterr().out) == written


@pytest.mark.slow
def test_a_model_in_the_users_own_folder_is_found(digits: Path, tmp_path: Path) -> None:
    (tmp_path / "my_models.py").write_text(
        "from export.models import digits_mlp\ndef factory():\n    return digits_mlp()\n"
    )
    door = "import fedlag; fedlag.main()"
    command = [sys.executable, "-c", door, "advise", "my_models:factory", str(digits), *QUICK, "--rounds", "2"]
    path = os.pathsep.join(sys.path)
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "advice" / "aggregator.toml").is_file()


@pytest.mark.parametrize(
    ("arguments", "kind", "told"),
    [
        (["--learning-rates", "fast"], ConfigError, "is not a list of numbers"),
        (["--learning-rates", "0,0.1"], ConfigError, "above 0"),
        (["--learning-rates", "nan"], ConfigError, "above 0"),
        (["--learning-rates", "0.1,0.1"], ConfigError, "twice"),
        (["--label-column", "y"], ConfigError, "both --device-column and --label-column"),
        (["--label-column", "y", "--device-column", "d"], ConfigError, "are for a .csv file"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused_before_any_training(
    arguments: list[str], kind: type[FedlagError], told: str, digits: Path, tmp_path: Path
) -> None:
    with pytest.raises(kind, match=told):
        commands.app(args=["digits-mlp", str(digits), "--output", str(tmp_path / "out"), *arguments])


def test_data_that_does_not_fit_the_model_is_refused_before_any_training(tmp_path: Path, save_rows: SaveRows) -> None:
    for device in ("kitchen", "attic"):
        save_rows(tmp_path / "data" / f"{device}.npz")
    with pytest.raises(DataError, match=r"attic.* shape \(4,\), and the model takes \(64,\)"):
        commands.app(args=["digits-mlp", str(tmp_path / "data"), "--output", str(tmp_path / "out")])


def test_an_output_that_cannot_be_a_folder_is_refused(digits: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(StoreError, match="choose another --output"):
        commands.app(args=["digits-mlp", str(digits), "--output", str(tmp_path / "out")])
