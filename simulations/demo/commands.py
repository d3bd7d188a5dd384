"""``fedlag demo``: the product on one machine, from export to report."""

from __future__ import annotations

import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from aggregator.round_report import RoundReport
from simulations.demo.arms import Arm, chosen_arms
from simulations.demo.comparison import OnRound, export_demo, run_demo
from simulations.demo.learning_rates import choose_learning_rates
from simulations.demo.report import write_report
from simulations.demo.results import to_json
from simulations.demo.results_table import results_table, summary_table
from simulations.demo.seed_summary import summarize_seeds, summary_to_json
from wire.errors import StoreError

__all__ = ["main"]

app = typer.Typer(add_completion=False)
console = Console(stderr=True)


@app.command()
def demo(
    rounds: Annotated[int, typer.Option(min=1, help="Training rounds of each arm.")] = 30,
    seed: Annotated[int, typer.Option(min=0, help="Of the data's split, the initial values and the batches.")] = 0,
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds to run, from --seed on.")] = 1,
    output: Annotated[Path, typer.Option(help="Folder for report.html and results.json.")] = Path("demo-results"),
    form: Annotated[Literal["table", "json"], typer.Option("--format", help="What is printed at the end.")] = "table",
    choose: Annotated[
        bool,
        typer.Option("--choose-learning-rates", help="Choose each arm's learning rate on validation data instead."),
    ] = False,
) -> None:
    """Train 20 devices over a real broker under four rules, and compare what each gives them."""
    numbers = range(seed, seed + seeds)
    with tempfile.TemporaryDirectory(prefix="fedlag-export-") as scratch:
        exported = Path(scratch)
        with console.status("Exporting the model and holding it against autograd"):
            export_demo(numbers, exported)
        if choose:
            sys.stdout.buffer.write(choose_learning_rates(numbers, rounds, exported, _progress))
            return
        results = []
        for number in numbers:
            arms = chosen_arms()
            with _progress(arms, rounds, f"seed {number}") as on_round:
                results.append(run_demo(arms, seed=number, num_rounds=rounds, exported=exported, on_round=on_round))
    last = results[-1]
    data = to_json(last) if seeds == 1 else summary_to_json(summarize_seeds(results))
    try:
        output.mkdir(parents=True, exist_ok=True)
        (output / "results.json").write_bytes(data)
        write_report(last, output / "report.html")
    except OSError as error:
        raise StoreError(f"cannot write to {output}: {error.strerror}; choose another --output") from error
    if form == "json":
        sys.stdout.buffer.write(data + b"\n")
    else:
        Console().print(results_table(last) if seeds == 1 else summary_table(summarize_seeds(results)))
    console.print(f"The report with its pictures: {output / 'report.html'}")


def main(arguments: list[str]) -> None:
    """Run ``fedlag demo`` with these arguments; SIGTERM and a closed terminal end it as Ctrl+C does."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: signal.raise_signal(signal.SIGINT))
    app(args=arguments, prog_name="fedlag demo")


@contextmanager
def _progress(arms: Sequence[Arm], num_rounds: int, title: str) -> Iterator[OnRound]:
    """Show one bar for each arm; yield what moves them."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[accuracy]}"),
    )
    with Progress(*columns, console=console) as progress:
        bars = {arm.name: progress.add_task(f"{title} {arm.name}", total=num_rounds + 1, accuracy="") for arm in arms}

        def on_round(name: str, report: RoundReport) -> None:
            accuracies = [figures.before.accuracy for figures in report.counted.values()]
            mean = sum(accuracies) / max(len(accuracies), 1)
            progress.update(bars[name], advance=1, accuracy=f"accuracy {mean:.3f}")

        yield on_round
