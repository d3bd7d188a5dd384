"""``fedlag broker``: run the embedded broker, or mosquitto on the configuration of a fleet's folder."""

from __future__ import annotations

import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from broker.configuration import for_a_running_broker
from broker.embedded import EmbeddedBroker
from broker.mosquitto import run_mosquitto
from wire.errors import BrokerError, ConfigError

__all__ = ["main"]

app = typer.Typer(add_completion=False)


@app.command()
def run(
    port: Annotated[int, typer.Option(min=0, max=65535, help="TCP port on 127.0.0.1; 0 takes a free one.")] = 1883,
    folder: Annotated[Path | None, typer.Option(help="Where its configuration is written.")] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="Run mosquitto instead, on the mosquitto.conf of a folder that `fedlag init` made."),
    ] = None,
    is_printed: Annotated[
        bool, typer.Option("--print", help="With --config: print what a mosquitto that runs already needs, and end.")
    ] = False,
) -> None:
    """Run the embedded MQTT broker for this machine, until Ctrl+C. It listens on 127.0.0.1 alone.

    With --config it is mosquitto, for a home: over TLS, with certificates and an access list.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # SIGTERM ends it as Ctrl+C does
    if is_printed:
        if config is None:
            raise ConfigError("--print needs --config: name the mosquitto.conf of the fleet's folder")
        sys.stdout.write(_printed(config))
        return
    if config is not None:
        run_mosquitto(config)
        return
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


def _printed(config: Path) -> str:
    try:
        text = config.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {config}: {error}; `fedlag init` writes it into the fleet's folder") from error
    return for_a_running_broker(text, config.resolve().parent)


def main(arguments: list[str]) -> None:
    """Run ``fedlag broker`` with these arguments."""
    app(args=arguments, prog_name="fedlag broker")
