"""``fedlag edge``: run devices. argparse, since a device stays light."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
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
    options = parser.parse_args(arguments)
    logging.basicConfig(
        level=logging.ERROR if options.quiet else logging.INFO, format="%(asctime)s %(levelname)s %(message)s"
    )
    configs = [load_settings(path, EdgeConfig) for path in options.config]
    asyncio.run(_run_devices(configs))


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
