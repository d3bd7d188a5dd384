"""``fedlag export``: make a torch model into a program that devices can train."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from export.model_folder import INITIAL_VALUES, ExportReport, export_program, write_initial_values
from export.models import built_in_models, load_model

__all__ = ["main"]

app = typer.Typer(add_completion=False)


class Format(StrEnum):
    """How the result is printed."""

    TEXT = "text"
    JSON = "json"


@app.command()
def export(
    model: Annotated[str, typer.Argument(help=f"{', '.join(built_in_models())}, or your own package.module:factory.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder for the program; made if it is missing.")],
    partial: Annotated[
        list[str] | None,
        typer.Option(
            help="Layers, with commas between them, for which a smaller training program is written, too; may be given "
            "several times."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the initial values.")] = 0,
    form: Annotated[Format, typer.Option("--format", help="A table for people, or json.")] = Format.TEXT,
) -> None:
    """Export a model, hold it against autograd on every runtime, and write it with its initial values."""
    partials = [[name.strip() for name in layers.split(",")] for layers in partial or ()]
    report = export_program(load_model(model), model, output, partials)
    write_initial_values(model, seed, output / INITIAL_VALUES)
    if form is Format.JSON:
        sys.stdout.write(msgspec.json.encode(report).decode() + "\n")
    else:
        _print_tables(report, output)


def main(arguments: list[str]) -> None:
    """Run ``fedlag export`` with these arguments; a model of your own may lie in the current folder."""
    sys.path.insert(0, str(Path.cwd()))
    app(args=arguments, prog_name="fedlag export")


def _print_tables(report: ExportReport, folder: Path) -> None:
    """Print layers with their errors, and files with their sizes."""
    console = Console()
    layers = Table("layer", title=f"{report.manifest.model}: relative error against autograd", title_justify="left")
    layers.add_column("parameters", justify="right")
    for verification in report.verifications:
        layers.add_column(verification.runtime, justify="right")
    for layer in report.manifest.layers:
        errors = (f"{verification.errors[layer.name]:.1e}" for verification in report.verifications)
        layers.add_row(layer.name, f"{layer.num_params:,}", *errors)
    outputs = (f"{verification.output_error:.1e}" for verification in report.verifications)
    layers.add_row("loss and logits", "", *outputs)
    files = Table("file", title=str(folder), title_justify="left")
    files.add_column("bytes", justify="right")
    for name, file in report.manifest.files.items():
        files.add_row(name, f"{file.size_bytes:,}")
    files.add_row(INITIAL_VALUES, f"{(folder / INITIAL_VALUES).stat().st_size:,}")
    console.print(layers)
    console.print(files)
