"""``fedlag init``: make a fleet's folder."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from broker.founding.folder import found_fleet
from broker.founding.hosts import names_and_addresses

__all__ = ["main"]

app = typer.Typer(add_completion=False)


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="The fleet's folder, which is made.")],
    fleet: Annotated[str, typer.Option(help="The fleet's name; by default the folder's.", show_default=False)] = "",
    host: Annotated[
        list[str] | None, typer.Option(help="A further name or address of this machine, as devices see it; repeatable.")
    ] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="The broker's TCP port.")] = 8883,
) -> None:
    """Make a fleet's folder: configuration, certificate authority, certificates, access list, systemd units."""
    hosts = names_and_addresses(host or [])
    found_fleet(folder, fleet or folder.absolute().name, hosts, port)
    place = shlex.quote(str(folder))
    sys.stdout.write(
        f"1. fedlag export digits-mlp -o {place}/program  # or your own model; the broker is reached as {', '.join(hosts)}\n"
        f"2. fedlag broker --config {place}/mosquitto.conf  # for good: sudo cp {place}/systemd/*-broker.service /etc/systemd/system\n"
        f"3. fedlag aggregator run {place}/aggregator.toml  # docs/broker.md says more, and how to keep {place}/keys\n"
    )


def main(arguments: list[str]) -> None:
    """Run ``fedlag init`` with these arguments."""
    app(args=arguments, prog_name="fedlag init")
