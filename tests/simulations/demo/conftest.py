"""Made-up results: shaped like a comparison, measured by nobody, and never shown as anything but a test."""

from collections.abc import Callable

import numpy as np
import pytest

from simulations.demo.results import ArmResult, DemoResult, DeviceResult, Estimate, RoundResult

LAYERS = {"conv1": 496, "conv2": 2592, "conv3": 5152, "fc1": 24640, "head": 455}
LEVELS = {"fedavg": 0.86, "local": 0.92, "fedlag-paper": 0.91, "fedlag-swap": 0.95}
FIRST_PERSONAL = {"fedavg": {}, "fedlag-paper": {"conv1": 2, "conv3": 2}, "fedlag-swap": {"conv1": 10, "conv2": 16}}

MakeResults = Callable[..., DemoResult]


def make_devices(name: str, num_devices: int, num_rounds: int, rng: np.random.Generator) -> tuple[DeviceResult, ...]:
    shared = sum(count for layer, count in LAYERS.items() if layer not in FIRST_PERSONAL.get(name, {}))
    sent = 0 if name == "local" else 4 * shared * num_rounds
    return tuple(
        DeviceResult(
            device_id=f"person-{index // 2 + 1:02d}-{'left' if index % 2 == 0 else 'right'}",
            runtime="executorch" if index % 3 == 0 else "onnx",
            num_train=int(rng.integers(90, 150)),
            validation_accuracy=float(np.clip(rng.normal(LEVELS[name], 0.05), 0, 1)),
            test_accuracy=float(np.round(np.clip(rng.normal(LEVELS[name], 0.06), 0, 1), 3)),
            bytes_up=sent + int(rng.integers(1000)) * (sent > 0),
            bytes_down=sent,
        )
        for index in range(num_devices)
    )


def make_round(name: str, number: int, num_devices: int, rng: np.random.Generator) -> RoundResult:
    first = FIRST_PERSONAL[name]
    scores = {
        layer: float(np.clip(0.05 + 0.09 * depth + 0.006 * number + rng.normal(0, 0.03), 0, 1))
        for depth, layer in enumerate(reversed(LAYERS))
    }
    personal = tuple(layer for layer in LAYERS if number >= first.get(layer, 10**9))
    chosen = [layer for layer in first if number + 1 == first[layer]]
    return RoundResult(
        round_number=number,
        personal_layers=personal,
        conflict={layer: None if name == "fedlag-swap" and layer in personal else scores[layer] for layer in LAYERS},
        mean_cosine={layer: None if layer in personal else 0.5 - scores[layer] for layer in LAYERS},
        validation_accuracy=float(1 - 0.85 * np.exp(-number / 6) - (1 - LEVELS[name])) if number > 0 else 0.1,
        validation_loss=float(2 * np.exp(-number / 8)),
        num_counted=num_devices,
        reasons={layer: f"kept {layer} helps twice in a row: chosen" for layer in chosen},
        swap_gains={layer: Estimate(0.08, 0.021) for layer in LAYERS} if number % 3 == 0 else {},
    )


def make_results(seed: int = 0, num_devices: int = 20, num_rounds: int = 40) -> DemoResult:
    rng = np.random.default_rng(seed)
    arms = {
        name: ArmResult(
            name=name,
            learning_rate=0.015,
            devices=make_devices(name, num_devices, num_rounds, rng),
            rounds=()
            if name == "local"
            else tuple(make_round(name, number, num_devices, rng) for number in range(1, num_rounds + 1)),
        )
        for name in LEVELS
    }
    return DemoResult(
        seed=seed,
        num_rounds=num_rounds,
        arms=arms,
        layers=LAYERS,
        wall_s=93.4,
        data_source="made-up figures, to look at the report",
        data_license="Smartwatch data: nobody's",
        settings={"local epochs": 1, "batch size": 10, "learning rates tried": "0.005, 0.015, 0.045"},
        versions={"fedlag-edge": "0.1.0", "numpy": "2.4.6"},
    )


@pytest.fixture
def results() -> DemoResult:
    return make_results()


@pytest.fixture
def new_results() -> MakeResults:
    return make_results
