"""``fedlag edge``: run devices, and write down what they learned. argparse, since a device stays light."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from edge_client.agent import Agent, Workshop
from edge_client.config import EdgeConfig
from wire.errors import FedlagError
from wire.settings import load_settings

__all__ = ["main"]

log = logging.getLogger(__name__)


def main(arguments: list[str]) -> None:
    """Run ``fedlag edge`` with these arguments."""
    parser = argparse.ArgumentParser(prog="fedlag edge", description="Train on this device's own data for its fleet.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    run = verbs.add_parser("run", help="serve the fleet until SIGTERM or Ctrl+C")
    run.add_argument("config", nargs="+", type=Path, help="a device's TOML file; several make several devices")
    run.add_argument("--quiet", action="store_true", help="log errors alone")
    export = verbs.add_parser("export-model", help="write this device's own model as .onnx and .safetensors")
    export.add_argument("config", type=Path, help="the device's TOML file")
    export.add_argument("-o", "--output", type=Path, required=True, help="the files' name, without an ending")
    verbs.add_parser("build-runtime", help="compile what runs ExecuTorch without torch, where that was not done yet")
    options = parser.parse_args(arguments)
    if options.verb == "build-runtime":
        _build_runtime()
        return
    if options.verb == "export-model":
        _export_model(load_settings(options.config, EdgeConfig), options.output)
        return
    logging.basicConfig(
        level=logging.ERROR if options.quiet else logging.INFO, format="%(asctime)s %(levelname)s %(message)s"
    )
    configs = [load_settings(path, EdgeConfig) for path in options.config]
    asyncio.run(_run_devices(configs))


def _export_model(config: EdgeConfig, output: Path) -> None:
    from edge_client.exporting import export_own_model  # noqa: PLC0415 - a device that runs does without

    found = export_own_model(config, output)
    sys.stdout.write(
        f"{found.model} as {config.device_id} trained it in round {found.round_number}: {found.onnx} (x -> logits), "
        f"{found.safetensors}\n"
    )


def _build_runtime() -> None:
    from edge_client.native.binding import open_library  # noqa: PLC0415 - the same
    from edge_client.native.building import build_library  # noqa: PLC0415 - for who wants ExecuTorch

    path = build_library()
    open_library(path)
    sys.stdout.write(f"{path}\n")


async def _run_devices(configs: list[EdgeConfig]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="training") as executor:
        workshop = Workshop(executor)
        agents = [Agent(config, workshop) for config in configs]
        if len(agents) == 1:
            await agents[0].run(stop)
            return
        ends = await asyncio.gather(*(_run_device(agent, stop) for agent in agents))
    for error in ends:
        if error is not None:
            raise error


async def _run_device(agent: Agent, stop: asyncio.Event) -> FedlagError | None:
    """Run a device; one that cannot go on does not end the others of this process."""
    try:
        await agent.run(stop)
    except FedlagError as error:
        log.error("%s ended: %s", agent.device_id, error)  # noqa: TRY400 - one line, for people
        return error
    return None
