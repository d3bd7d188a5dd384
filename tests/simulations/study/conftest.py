"""Made-up studies: small ones on the digits, and results without any training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from simulations.study.cell import Cell, PlannedCell, cell_digest
from simulations.study.config import DataChoice, TrainingRule
from simulations.study.outcome import CellOutcome, ClientOutcome, RoundOutcome

MakeCell = Callable[..., PlannedCell]
MakeOutcome = Callable[..., CellOutcome]

QUICK = """\
scenarios = [{ name = "digits-iid", num_clients = 4, examples_per_client = 30 }]
methods = ["fedavg", "local"]
seeds = [0]
engine = "stacked"
[rounds]
num_rounds = 4
[training]
learning_rates = [0.05]
"""


@pytest.fixture
def quick(tmp_path: Path) -> Path:
    """A study of two cells, a fraction of a second each."""
    path = tmp_path / "quick.toml"
    path.write_text(QUICK)
    return path


@pytest.fixture
def make_cell() -> MakeCell:
    """Makes a cell of a made-up study."""

    def make(
        method: str = "fedavg", *, scenario: str = "digits-iid", seed: int = 0, rate: float = 0.1, num_rounds: int = 4
    ) -> PlannedCell:
        cell = Cell(
            scenario=DataChoice(name=scenario),
            fingerprint="",
            method=method,
            options={},
            seed=seed,
            learning_rate=rate,
            num_rounds=num_rounds,
            cohort_size=None,
            sketch_width=64,
            training=TrainingRule(),
            records_conflict=False,
        )
        return PlannedCell(digest=cell_digest(cell), scenario=scenario, method=method, engine="stacked", cell=cell)

    return make


@pytest.fixture
def make_outcome() -> MakeOutcome:
    """Makes the outcome of a cell, without training."""

    def make(
        planned: PlannedCell, accuracies: dict[str, float | None], validation: float = 0.5, bytes_up: int = 1000
    ) -> CellOutcome:
        clients = tuple(
            ClientOutcome(client=name, num_train=20, test_accuracy=value, bytes_up=bytes_up, bytes_down=bytes_up)
            for name, value in accuracies.items()
        )
        rounds = tuple(
            RoundOutcome(
                round_number=number,
                train_loss=1.0,
                validation_accuracy=validation,
                validation_loss=0.7,
                num_diverged=0,
                personal_layers=("head",) if number > 2 else (),
                reasons={"head": "it is the last"} if number == 2 else {},
                conflict={"fc1": 0.1 * number, "head": None if number > 2 else 0.4},
                swap_gains={},
            )
            for number in range(1, planned.cell.num_rounds + 1)
        )
        return CellOutcome(
            digest=planned.digest,
            engine="stacked",
            wall_s=2.0,
            cpu_s=1.5,
            layers={"fc1": 2080, "head": 330},
            clients=clients,
            rounds=rounds,
            versions={"torch": "2.13.0"},
            commit="0123456789ab",
        )

    return make


@pytest.fixture
def save_client() -> Callable[..., Path]:
    """Writes one client's data for ``digits-mlp``."""

    def save(path: Path, *, num_train: int = 20, classes: int = 10, **replaced: np.ndarray) -> Path:
        rng = np.random.default_rng(len(path.stem))
        arrays: dict[str, np.ndarray] = {}
        for part, size in (("train", num_train), ("validation", 8), ("test", 8)):
            arrays[f"x_{part}"] = rng.normal(size=(size, 64)).astype(np.float32)
            arrays[f"y_{part}"] = np.arange(size) % classes
        path.parent.mkdir(exist_ok=True)
        np.savez(path, allow_pickle=False, **{**arrays, **replaced})
        return path

    return save
