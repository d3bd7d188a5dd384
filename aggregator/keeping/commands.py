"""``fedlag model``, ``fedlag backup``, ``fedlag restore``: what the aggregator keeps, also while it runs."""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import numpy as np
import typer
from rich.console import Console
from rich.table import Table
from safetensors.numpy import save

from aggregator.config import AggregatorConfig
from aggregator.keeping.backup import back_up
from aggregator.keeping.backup import restore as restore_backup
from aggregator.keeping.store import FleetStore
from aggregator.planning import FleetState
from wire.durable import write_durably
from wire.settings import load_settings

__all__ = ["main"]

app = typer.Typer(add_completion=False)
models = typer.Typer(add_completion=False)
app.add_typer(models, name="model")

console = Console()

Config = Annotated[Path, typer.Argument(help="The aggregator's TOML file.")]
Name = Annotated[str, typer.Argument(help="A version, as 0-12: epoch and round; or latest.")]
Format = Annotated[Literal["text", "json"], typer.Option("--format")]


class _VersionRow(msgspec.Struct, frozen=True):
    """One version: its name, when it was saved in UTC, the rule, the personal layers, every layer's digest, why it went back."""

    version: str
    saved_at: str
    selector: str
    personal_layers: tuple[str, ...]
    layers: dict[str, str]
    note: str


class _LayerDifference(msgspec.Struct, frozen=True):
    """How a layer changed between two versions.

    Args:
        layer: Its name.
        change: The norm of the difference, relative to the norm in the first version.
        before: Whether it was shared or personal in the first version.
        after: The same of the second.
    """

    layer: str
    change: float
    before: Literal["shared", "personal"]
    after: Literal["shared", "personal"]


@models.callback()
def model() -> None:
    """The versions of the model that the aggregator keeps: the last ten, and before them every hundredth."""


@models.command("list")
def list_versions(config: Config, output: Format = "text") -> None:
    """List the versions, the newest first."""
    with closing(_open(config)) as store:
        rows = [
            _VersionRow(
                it.state.name,
                it.saved_at,
                it.state.selector,
                it.state.decision.personal_layers,
                it.state.layers,
                it.state.guard.note if it.state.guard else "",
            )
            for it in store.versions()
        ]
    if output == "json":
        _print_json(rows)
        return
    table = Table("version", "saved (UTC)", "rule", "personal layers", box=None)
    for row in rows:
        table.add_row(row.version, row.saved_at, row.selector, ", ".join(row.personal_layers) or "none")
    console.print(table)
    for row in rows:
        if row.note:
            console.print(f"{row.version} went {row.note}", soft_wrap=True)


@models.command()
def pull(
    config: Config,
    version: Name = "latest",
    output: Annotated[Path, typer.Option(help="The safetensors file to write.")] = Path("model.safetensors"),
) -> None:
    """Write a version's parameters: averages, and of personal layers the values with which a new device begins."""
    with closing(_open(config)) as store:
        state = store.version(version)
        tensors = {name: it for layer in state.layers.values() for name, it in store.layers.parameters(layer).items()}
    metadata = {"fedlag.version": state.name, "fedlag.fleet": state.plan.fleet, "fedlag.model": state.plan.model_id}
    write_durably(output, save({name: np.ascontiguousarray(it) for name, it in tensors.items()}, metadata))
    console.print(f"version {state.name}: {len(tensors)} parameters in {output}", soft_wrap=True)


@models.command()
def diff(config: Config, before: Name, after: Name = "latest", output: Format = "text") -> None:
    """Say how each layer changed between two versions."""
    with closing(_open(config)) as store:
        first, second = store.version(before), store.version(after)
        rows = [
            _LayerDifference(name, _change(store, digest, second.layers[name]), _use(first, name), _use(second, name))
            for name, digest in first.layers.items()
            if name in second.layers
        ]
    if output == "json":
        _print_json(rows)
        return
    table = Table("layer", "change", first.name, second.name, box=None)
    for row in rows:
        table.add_row(row.layer, f"{row.change:.1%}", row.before, row.after)
    console.print(table)


@models.command()
def rollback(config: Config, version: Name) -> None:
    """Go back to a version, its personal layers and its evidence; devices keep their own layers."""
    with closing(_open(config)) as store:
        state = store.version(version)
        store.ask_to_go_back(state)
    _say_where_it_goes_on(state)


@app.command()
def backup(
    config: Config,
    archive: Annotated[Path, typer.Argument(help="The file to write; one that is there is replaced.")],
) -> None:
    """Write the aggregator's versions and records into one file, also while it runs. Devices' layers are not in it."""
    state = back_up(load_settings(config, AggregatorConfig).folder, archive)
    console.print(f"{archive} holds the fleet {state.plan.fleet} up to version {state.name}", soft_wrap=True)


@app.command()
def restore(
    config: Config,
    archive: Annotated[Path, typer.Argument(help="From `fedlag backup`.")],
) -> None:
    """Let the fleet go on from a backup; a damaged database is put aside, and devices keep their own layers."""
    settings = load_settings(config, AggregatorConfig)
    _say_where_it_goes_on(restore_backup(settings.folder, settings.fleet, archive))


def main(arguments: list[str]) -> None:
    """Run ``fedlag model``, ``fedlag backup`` or ``fedlag restore``, the first of the arguments."""
    app(args=arguments, prog_name="fedlag")


def _open(config: Path) -> FleetStore:
    return FleetStore.existing(load_settings(config, AggregatorConfig).folder)


def _change(store: FleetStore, before: str, after: str) -> float:
    """Return the norm of the difference of two layers, relative to the first's."""
    if before == after:
        return 0.0
    first, second = (
        np.concatenate([value.ravel().astype(np.float64) for value in store.layers.parameters(digest).values()])
        for digest in (before, after)
    )
    norm = float(np.linalg.norm(first))
    return float(np.linalg.norm(second - first)) / norm if norm else float("inf")


def _use(state: FleetState, layer: str) -> Literal["shared", "personal"]:
    return "personal" if layer in state.plan.personal_layers else "shared"


def _print_json(rows: object) -> None:
    sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(rows), indent=2) + b"\n")
    sys.stdout.flush()


def _say_where_it_goes_on(state: FleetState) -> None:
    console.print(
        f"the fleet goes on from version {state.name}, in a later epoch: at once if its aggregator runs, else when it starts",
        soft_wrap=True,
    )
