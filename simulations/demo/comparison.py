"""The demo: twenty natural devices, one broker, and a fleet for each arm, all of them real and all on this machine.

Every arm is a fleet of its own with its own aggregator; a few processes hold the devices of all arms, each device with
its own connection, identity and folder. The arms run side by side, so that no processor waits for a straggler.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgspec

from aggregator.round_report import RoundReport
from broker.embedded import EmbeddedBroker
from simulations.data.watch import LICENSE_LINE, load_watch_devices
from simulations.demo.arms import Arm
from simulations.demo.collecting import collect_arm
from simulations.demo.fleet_files import write_aggregator, write_data, write_devices
from simulations.demo.processes import Process, run_process
from simulations.demo.results import ArmResult, DemoResult
from wire.errors import FleetError
from wire.manifest import decode_manifest
from wire.messages import TrainingSettings

__all__ = ["MODEL", "OnRound", "export_demo", "run_arms", "run_demo"]

MODEL = "watch-cnn"
NUM_ONNX_PROCESSES = 2
DATA_SOURCE = "smartwatch recordings of seven shoulder exercises, on both arms of ten people"
PACKAGES = ("fedlag-edge", "torch", "executorch", "onnxruntime", "numpy", "paho-mqtt", "iotcore")

OnRound = Callable[[str, RoundReport], None]
"""Called with an arm's name and the report of each round that closes."""


def export_demo(seeds: Sequence[int], folder: Path) -> None:
    """Write the program to ``folder``/program and the initial values to ``folder``/initial-<seed>.safetensors.

    It runs in a process of its own, so that torch does not stay in this one's memory.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=1, mp_context=context) as executor:
        executor.submit(_export, tuple(seeds), folder).result()


def run_demo(arms: Sequence[Arm], *, seed: int, num_rounds: int, exported: Path, on_round: OnRound) -> DemoResult:
    """Run all arms with one seed; return what came out.

    Args:
        arms: Which fleets to run.
        seed: Of the data's split, the initial values, the batch orders and the sketches.
        num_rounds: Training rounds; one measuring round follows.
        exported: The folder of ``export_demo``.
        on_round: For progress.

    Raises:
        BrokerError: If the embedded broker cannot be started.
        DataError: If the smartwatch data is missing.
        FleetError: If a process of the demo ends before its time.
        StoreError: If the disk refuses.
    """
    started_s = time.monotonic()
    results = asyncio.run(run_arms(arms, seed=seed, num_rounds=num_rounds, exported=exported, on_round=on_round))
    manifest = decode_manifest((exported / "program" / "manifest.json").read_bytes())
    settings = TrainingSettings()
    return DemoResult(
        seed=seed,
        num_rounds=num_rounds,
        arms=results,
        layers={layer.name: layer.num_params for layer in manifest.layers},
        wall_s=time.monotonic() - started_s,
        data_source=DATA_SOURCE,
        data_license=LICENSE_LINE,
        settings={
            "local epochs per round": settings.num_epochs,
            "batch size": settings.batch_size,
            "momentum": settings.momentum,
            "largest gradient norm": settings.max_gradient_norm,
        },
        versions={name: importlib.metadata.version(name) for name in PACKAGES},
    )


async def run_arms(
    arms: Sequence[Arm], *, seed: int, num_rounds: int, exported: Path, on_round: OnRound
) -> dict[str, ArmResult]:
    """Run all arms, side by side; return arm -> result. See ``run_demo``."""
    devices = load_watch_devices(seed)
    with tempfile.TemporaryDirectory(prefix="fedlag-demo-") as scratch:
        folder = Path(scratch)
        broker = EmbeddedBroker(folder / "broker")
        write_data(devices, folder / "data")
        hosts: list[list[str]] = [[] for _ in range(NUM_ONNX_PROCESSES + 1)]
        servers = {}
        for arm in arms:
            home = folder / arm.name
            ids = [device.device_id for device in devices]
            configs = write_devices(arm, ids, folder / "data", home, broker.port)
            hosts[0] += map(str, configs["executorch"])
            for index, path in enumerate(configs["onnx"]):
                hosts[1 + index % NUM_ONNX_PROCESSES].append(str(path))
            servers[arm.name] = write_aggregator(
                arm,
                num_devices=len(devices),
                num_rounds=num_rounds,
                seed=seed,
                program=exported / "program",
                initial=exported / f"initial-{seed}.safetensors",
                folder=home,
                port=broker.port,
            )
        broker.start()
        try:
            reports = await _run_processes(broker, servers, hosts, folder, on_round)
        finally:
            broker.stop()
    return {arm.name: collect_arm(arm, reports[arm.name]) for arm in arms}


async def _run_processes(
    broker: EmbeddedBroker, servers: dict[str, Path], hosts: list[list[str]], folder: Path, on_round: OnRound
) -> dict[str, list[RoundReport]]:
    async with AsyncExitStack() as stack:
        edges = [
            await stack.enter_async_context(run_process(f"devices-{index}", ["edge", "run", *paths], folder))
            for index, paths in enumerate(hosts)
        ]
        aggregators = {
            name: await stack.enter_async_context(
                run_process(f"aggregator-{name}", ["aggregator", "run", str(path), "--format", "json"], folder)
            )
            for name, path in servers.items()
        }
        watching = [asyncio.create_task(_watch_broker(broker)), *(asyncio.create_task(_watch(edge)) for edge in edges)]
        following = [asyncio.create_task(_follow(name, process, on_round)) for name, process in aggregators.items()]
        all_reports = asyncio.create_task(_all(following))
        tasks: list[asyncio.Task[Any]] = [all_reports, *watching]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            return dict(zip(aggregators, all_reports.result(), strict=True))
        finally:
            for task in (*tasks, *following):
                task.cancel()


async def _all(following: list[asyncio.Task[list[RoundReport]]]) -> list[list[RoundReport]]:
    return await asyncio.gather(*following)


async def _watch(edge: Process) -> None:
    await edge.finished()
    raise FleetError(f"{edge.name} ended before the demo")


async def _watch_broker(broker: EmbeddedBroker) -> None:
    while broker.is_running:  # noqa: ASYNC110 - the broker is no child of this loop
        await asyncio.sleep(1.0)
    raise FleetError("the embedded broker ended before the demo")


async def _follow(name: str, aggregator: Process, on_round: OnRound) -> list[RoundReport]:
    reports = []
    async for line in aggregator.lines():
        report = msgspec.json.decode(line, type=RoundReport)
        reports.append(report)
        on_round(name, report)
    await aggregator.finished()
    return reports


def _export(seeds: tuple[int, ...], folder: Path) -> None:
    from export.model_folder import export_model, write_initial_values  # noqa: PLC0415 - it imports torch

    with (folder / "export.log").open("wb") as log:
        os.dup2(log.fileno(), sys.stderr.fileno())  # native libraries talk about the processor; errors come as such
    export_model(MODEL, folder / "program")
    for seed in seeds:
        write_initial_values(MODEL, seed, folder / f"initial-{seed}.safetensors")
