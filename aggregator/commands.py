"""``fedlag aggregator``: run the aggregator of a fleet."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import typer
from rich.console import Console

from aggregator.config import AggregatorConfig
from aggregator.round_report import RoundReport
from aggregator.server import Server
from aggregator.signing_key import encode_public_key, load_signing_key, make_signing_key
from wire.errors import ConfigError
from wire.settings import load_settings

__all__ = ["main"]

app = typer.Typer(add_completion=False)
console = Console()


@app.callback()
def aggregator() -> None:
    """The home server's part: rounds, conflict detection, averaging."""


@app.command()
def run(
    config: Annotated[Path, typer.Argument(help="The aggregator's TOML file.")],
    output: Annotated[
        Literal["text", "json"], typer.Option("--format", help="text, or json: one line per closed round.")
    ] = "text",
    quiet: Annotated[bool, typer.Option(help="Log errors alone.")] = False,
) -> None:
    """Run rounds until the last one is closed, or until SIGTERM or Ctrl+C."""
    logging.basicConfig(level=logging.ERROR if quiet else logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    settings = load_settings(config, AggregatorConfig)
    asyncio.run(_run(settings, _print_json if output == "json" else _print_text))


@app.command()
def new_key(
    private: Annotated[Path, typer.Argument(help="The new private key: signing_key in the aggregator's TOML file.")],
    public: Annotated[Path, typer.Argument(help="Its public half: key in [aggregator] in each device's.")],
) -> None:
    """Make the key pair with which plans are signed, PEM; the private key is for its owner's eyes alone."""
    make_signing_key(private, public)
    console.print(f"{private} signs plans and stays here; {public} goes to each device", soft_wrap=True)


@app.command()
def public_key(config: Annotated[Path, typer.Argument(help="The aggregator's TOML file.")]) -> None:
    """Print the public half of signing_key, PEM: the file that devices name as `key` in [aggregator]."""
    path = load_settings(config, AggregatorConfig).signing_key
    if path is None:
        raise ConfigError(
            f"{config} names no signing_key: plans are not signed; make one with `fedlag aggregator new-key`"
        )
    sys.stdout.buffer.write(encode_public_key(load_signing_key(path)))


def main(arguments: list[str]) -> None:
    """Run ``fedlag aggregator`` with these arguments."""
    app(args=arguments, prog_name="fedlag aggregator")


async def _run(config: AggregatorConfig, on_report: Callable[[RoundReport], None]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await Server(config, on_report).run(stop)


def _print_json(report: RoundReport) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(report) + b"\n")
    sys.stdout.flush()


def _print_text(report: RoundReport) -> None:
    if report.held:
        console.print(f"round {report.round_number} is not used: {report.held}", soft_wrap=True)
        return
    losses = [figures.before.loss for figures in report.counted.values()]
    personal = ", ".join(report.next_personal_layers) or "none"
    console.print(
        f"round {report.round_number} ({report.selector}): {len(report.counted)} counted, {len(report.refused)} refused, "
        f"{len(report.dropouts)} silent; validation loss {sum(losses) / max(len(losses), 1):.3f}; personal next: {personal}",
        soft_wrap=True,
    )
