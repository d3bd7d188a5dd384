"""Made-up trials without training, and small models and data to read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from torch import nn

from export.models import TrainableModel
from simulations.advise.result import MethodTrial, TrialResult
from simulations.engines.model import SimulatedModel, simulate_model

MakeResult = Callable[..., TrialResult]

BYTES = {"fedavg": 1000.0, "local": 0.0, "fedper": 800.0, "fedlag-swap": 1100.0, "fedlag-paper": 600.0}
LAYERS = {"fc1": 2080, "head": 330}


@pytest.fixture
def make_result() -> MakeResult:
    """Makes a trial of some methods on 20 devices; a method's accuracies differ from device to device by ``spread``."""

    def make(
        means: Mapping[str, float],
        *,
        spread: float = 0.02,
        num_devices: int = 20,
        num_seeds: int = 2,
        personal_layers: tuple[str, ...] = (),
        conflict: Mapping[str, float] | None = None,
        **replaced: object,
    ) -> TrialResult:
        rng = np.random.default_rng(0)
        names = [f"device-{number:02d}" for number in range(num_devices)]

        def accuracy(mean: float) -> dict[int, dict[str, float]]:
            noise = rng.normal(scale=spread, size=(num_seeds, num_devices))
            noise -= noise.mean()
            return {seed: dict(zip(names, (mean + noise[seed]).tolist(), strict=True)) for seed in range(num_seeds)}

        methods = tuple(
            MethodTrial(
                method=method,
                options={"num_personal": 1} if method in {"fedper", "fedlag-paper"} else {},
                learning_rate=0.03,
                is_rate_at_edge=False,
                accuracy=accuracy(mean),
                validation=(0.5,) * 12,
                bytes_up=BYTES[method],
                bytes_down=BYTES[method],
                personal_layers=dict.fromkeys(range(num_seeds), personal_layers),
            )
            for method, mean in means.items()
        )
        told = {
            "model": "digits-mlp",
            "data": "clients",
            "layers": LAYERS,
            "num_rounds": 12,
            "num_seeds": num_seeds,
            "num_found": num_devices,
            "num_train": dict.fromkeys(names, 60),
            "num_validation": dict.fromkeys(names, 20),
            "num_test": dict.fromkeys(names, 20),
            "methods": methods,
            "conflict": dict(conflict or {"fc1": 0.1, "head": 0.2}),
            "notes": (),
            "failures": (),
        }
        return TrialResult(**{**told, **replaced})  # type: ignore[arg-type]

    return make


@pytest.fixture
def linear() -> SimulatedModel:
    """Four numbers, three classes."""
    module = nn.Sequential()
    module.add_module("fc1", nn.Linear(4, 5))
    module.add_module("head", nn.Linear(5, 3))
    return simulate_model(TrainableModel(module, (4,), 3))


@pytest.fixture
def save_rows() -> Callable[..., Path]:
    """Writes examples of four numbers and three classes; the first number is the row's own, so that order shows."""

    def save(path: Path, num_rows: int = 10, **replaced: np.ndarray) -> Path:
        x = np.zeros((num_rows, 4), dtype=np.float32)
        x[:, 0] = np.arange(num_rows)
        path.parent.mkdir(parents=True, exist_ok=True)
        arrays: dict[str, np.ndarray] = {"x": x, "y": np.arange(num_rows) % 3, **replaced}
        np.savez(path, allow_pickle=False, **arrays)
        return path

    return save
