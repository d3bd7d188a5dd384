"""``fedlag broker``: run the embedded broker."""

from __future__ import annotations

import signal
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from broker.embedded import EmbeddedBroker
from wire.errors import BrokerError

__all__ = ["main"]

app = typer.Typer(add_completion=False)


@app.command()
def run(
    port: Annotated[int, typer.Option(min=0, max=65535, help="TCP port on 127.0.0.1; 0 takes a free one.")] = 1883,
    folder: Annotated[Path | None, typer.Option(help="Where its configuration is written.")] = None,
) -> None:
    """Run the embedded MQTT broker for this machine, until Ctrl+C. It listens on 127.0.0.1 alone."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # SIGTERM ends it as Ctrl+C does
    with tempfile.TemporaryDirectory(prefix="fedlag-broker-") as scratch:
        broker = EmbeddedBroker(folder or Path(scratch), port)
        try:
            broker.start()
            Console().print(f"The broker listens on {broker.host}:{broker.port}; Ctrl+C ends it.")
            while broker.is_running:
                time.sleep(0.5)
            raise BrokerError("the embedded broker ended by itself; see its messages above")
        except KeyboardInterrupt:
            pass
        finally:
            broker.stop()


def main(arguments: list[str]) -> None:
    """Run ``fedlag broker`` with these arguments."""
    app(args=arguments, prog_name="fedlag broker")
