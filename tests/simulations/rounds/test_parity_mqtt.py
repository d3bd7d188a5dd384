"""The vectorized simulation is the deployed fleet: exported programs, real sessions, a real broker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import safetensors.numpy
import torch

from aggregator.config import AggregatorConfig, RoundSettings, SelectorSettings
from aggregator.effects import Effect
from aggregator.fleet import Fleet
from aggregator.keeping.store import FleetStore
from aggregator.round_report import RoundReport
from aggregator.server import Server
from broker.embedded import EmbeddedBroker
from edge_client.agent import Agent, Workshop
from edge_client.config import EdgeConfig
from edge_client.dataset import Dataset, Split
from edge_client.onnx_program import load_onnx_program
from edge_client.store import DeviceStore
from export.model_folder import export_program
from export.models import TrainableModel
from simulations.engines.model import simulate_model
from simulations.loopback.fleet import LoopbackFleet
from simulations.rounds.method import Method
from tests.simulations.engines.cases import MODELS
from tests.simulations.rounds.fleets import (
    PROGRAM,
    SIZES,
    TRAINING,
    Run,
    furthest,
    make_clients,
    run,
    simulated_perceptron,
)
from wire.broker_address import BrokerAddress
from wire.manifest import decode_manifest
from wire.tensors import decode_layer

pytestmark = pytest.mark.slow

TOLERANCE = 1e-4
NUM_CLIENTS = 5
EARLY = {"first_tested_round": 2, "rounds_between_tests": 1}
CASES: dict[str, tuple[str, dict[str, Any], int, int]] = {
    "fedlag-swap": ("fedlag-swap", EARLY, NUM_CLIENTS, 10),
    "fedlag-paper": ("fedlag-paper", {"num_personal": 1}, NUM_CLIENTS, 6),
    "fedlag-paper every round of some": ("fedlag-paper", {"schedule": "every_round", "num_personal": 1}, 3, 6),
    "fedper of some": ("fedper", {}, 3, 5),
}

Layers = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The perceptron, exported, with its initial values."""
    folder, module = tmp_path_factory.mktemp("program") / "perceptron", simulated_perceptron().module
    export_program(TrainableModel(module, (SIZES[0],), SIZES[-1]), "perceptron", folder)
    values = {name: value.detach().numpy() for name, value in module.named_parameters()}
    (folder / "initial.safetensors").write_bytes(safetensors.numpy.save(values))
    return folder


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[EmbeddedBroker]:
    broker = EmbeddedBroker(tmp_path / "broker")
    broker.start()
    yield broker
    broker.stop()


@pytest.fixture
def _everybody_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """No round opens before all devices are there: a simulation has them all, a fleet asks those who came."""
    open_if_gathered: Callable[[Fleet, float], list[Effect]] = Fleet._open_if_gathered

    def wait_for_all(fleet: Fleet, now_s: float) -> list[Effect]:
        return open_if_gathered(fleet, now_s) if len(fleet.reachable) == NUM_CLIENTS else []

    monkeypatch.setattr(Fleet, "_open_if_gathered", wait_for_all)


def make_config(selector: str, options: dict[str, Any], rounds: RoundSettings, **places: Any) -> AggregatorConfig:
    return AggregatorConfig(
        fleet="home",
        selector=SelectorSettings(name=selector, options=options),
        rounds=rounds,
        training=TRAINING,
        **places,
    )


def make_agent(folder: Path, name: str, data: Dataset, address: BrokerAddress, workshop: Workshop) -> Agent:
    splits = {"train": data.train, "validation": data.validation, "test": data.test or data.train}
    arrays = {f"x_{split}": part.inputs for split, part in splits.items()}
    arrays |= {f"y_{split}": part.targets for split, part in splits.items()}
    np.savez(folder / f"{name}.npz", allow_pickle=False, **arrays)
    config = EdgeConfig(fleet="home", device_id=name, data=folder / f"{name}.npz", folder=folder / name, broker=address)
    return Agent(config, workshop)


def deploy(
    folder: Path, config: AggregatorConfig, clients: Mapping[str, Dataset]
) -> tuple[list[RoundReport], list[Layers]]:
    """Run a fleet over MQTT to its end; return the reports, and the averages after each."""
    reports: list[RoundReport] = []
    averages: list[Layers] = []

    def on_report(report: RoundReport) -> None:
        reports.append(report)
        averages.append(stored_layers(config))

    async def live() -> None:
        server, stop = Server(config, on_report), asyncio.Event()
        with ThreadPoolExecutor(max_workers=1) as executor:
            workshop = Workshop(executor)
            agents = [make_agent(folder, name, data, config.broker, workshop) for name, data in clients.items()]
            devices = [asyncio.create_task(agent.run(stop)) for agent in agents]
            async with asyncio.timeout(120):
                await server.run(asyncio.Event())
            stop.set()
            await asyncio.gather(*devices)

    asyncio.run(live())
    return reports, averages


def stored_layers(config: AggregatorConfig) -> Layers:
    store, manifest = FleetStore(config.folder), decode_manifest((config.program / "manifest.json").read_bytes())
    state = store.load_state()
    assert state is not None
    return {
        name: decode_layer(store.layers.load(digest), manifest.layer(name)) for name, digest in state.layers.items()
    }


def assert_same_rounds(reports: list[RoundReport], averages: list[Layers], simulated: Run) -> None:
    """Compare decisions and averages of every training round."""
    assert len(reports) == len(simulated.records) + 1  # with the measuring round
    for report, record in zip(reports[:-1], simulated.records, strict=True):
        assert list(report.counted) == [simulated.names[client] for client in record.cohort]
        assert report.personal_layers == record.personal_layers
        assert report.next_personal_layers == record.decision.personal_layers
        assert report.swap_gains == pytest.approx(record.swap_gains, abs=TOLERANCE)
    assert furthest(averages[-1], simulated.averages) < TOLERANCE
    measured = simulated.simulation.measure("validation")
    for name, figures in reports[-1].counted.items():
        assert measured.loss[simulated.names.index(name)] == pytest.approx(figures.before.loss, abs=TOLERANCE)


@pytest.mark.usefixtures("_everybody_first")
@pytest.mark.parametrize("case", CASES)
def test_a_simulation_decides_and_averages_as_a_fleet_over_mqtt_does(
    case: str, program: Path, broker: EmbeddedBroker, tmp_path: Path
) -> None:
    selector, options, cohort_size, num_rounds = CASES[case]
    rounds = RoundSettings(num_rounds=num_rounds, cohort_size=cohort_size, quorum=cohort_size, sketch_width=32, seed=5)
    places = {"program": program, "folder": tmp_path / "aggregator", "broker": BrokerAddress(port=broker.port)}
    clients = make_clients(NUM_CLIENTS)
    reports, averages = deploy(tmp_path, make_config(selector, options, rounds, **places), clients)

    method, folder = Method(name=case, selector=selector, options=options), tmp_path / "simulated"
    simulated = run(folder, method, num_rounds, clients, num_done=0, cohort_size=cohort_size, seed=5)
    for after in averages[:-1]:
        simulated.go_on(1)
        assert furthest(after, simulated.averages) < TOLERANCE
    assert_same_rounds(reports, averages, simulated)
    personal_layers = simulated.simulation.decision.personal_layers
    assert personal_layers, "the run is long enough that a decision falls"
    for layer in personal_layers:
        generations = {name: DeviceStore(tmp_path / name).load_generation() for name in clients}
        own = {name: kept.own_layers()[layer] for name, kept in generations.items() if kept is not None}
        assert furthest(own, simulated.own(layer)) < TOLERANCE


def test_a_simulation_of_a_cnn_decides_and_averages_as_sessions_with_its_exported_program_do(tmp_path: Path) -> None:
    torch.manual_seed(2)
    model, num_rounds = simulate_model(trainable := MODELS["norms"]()), 6
    manifest = export_program(trainable, "norms", tmp_path / "program").manifest
    rng = np.random.default_rng(0)
    clients = {}
    for index in range(3):
        splits = []
        for size in (24 + 5 * index, 20, 20):
            targets = rng.integers(model.num_classes, size=size)
            signal = np.sin(np.arange(np.prod(model.input_shape)) * (1 + targets[:, None]) / 7).astype(np.float32)
            inputs = signal.reshape(size, *model.input_shape) + rng.normal(0, 0.3, (size, *model.input_shape))
            splits.append(Split(inputs.astype(np.float32), (targets + index) % model.num_classes))
        clients[f"pi-{index}"] = Dataset(*splits)
    options = {"num_personal": 1, "num_warmup_rounds": 3}
    rounds = RoundSettings(num_rounds=num_rounds, cohort_size=3, quorum=3, sketch_width=64, seed=5)
    config = make_config("fedlag-paper", options, rounds, program=tmp_path, folder=tmp_path)
    program = load_onnx_program(tmp_path / "program", manifest)
    program.manifest = msgspec.structs.replace(manifest, files=PROGRAM.manifest.files)  # what a loopback fleet fetches
    fleet = LoopbackFleet(config, program, model.initial_values(), clients)
    method = Method(name="paper", selector="fedlag-paper", options=options)
    simulated = run(
        tmp_path / "simulated", method, num_rounds, clients, num_done=0, model=model, sketch_width=64, seed=5
    )
    averages = []
    for _ in range(num_rounds):
        fleet.run()
        simulated.go_on(1)
        averages.append({layer: fleet.aggregator.layer(layer) for layer in model.layer_sizes})
        assert furthest(averages[-1], simulated.averages) < TOLERANCE
    fleet.run()
    assert_same_rounds(fleet.aggregator.reports, averages, simulated)
    assert simulated.personal_layers[-1] != ()
