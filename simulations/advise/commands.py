"""``fedlag advise``: which rule suits a user's own devices, and the configuration of their fleet."""

from __future__ import annotations

import signal
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from simulations.advise.advice import make_advice
from simulations.advise.answer import Answer, answer_json, answer_table, make_answer
from simulations.advise.fleet_config import fleet_config
from simulations.advise.reading import DeviceData, DeviceSource, read_devices
from simulations.advise.result import TrialResult
from simulations.advise.tables import Columns
from simulations.advise.trial import DEFAULT_RATES, TrialSettings, run_trial
from simulations.demo.wording import printable
from simulations.engines.model import SimulatedModel
from simulations.study.conduct import Progress as StudyProgress
from simulations.study.conduct import default_jobs
from simulations.study.config import DataChoice
from simulations.study.material import make_model
from simulations.study.remaining import in_words
from simulations.study.store import ResultStore
from wire.errors import ConfigError, StoreError

__all__ = ["main"]

app = typer.Typer(add_completion=False, no_args_is_help=True)
console = Console(stderr=True)

CONFIG, ADVICE, TRIAL = "aggregator.toml", "advice.json", "trial.sqlite"
LARGEST_RATE = 1e3


@app.command()
def advise(
    model: Annotated[str, typer.Argument(help="A model's name, or package.module:factory of your own.")],
    data: Annotated[
        Path, typer.Argument(help="A folder with one .npz or one folder for each device, or one .npz or .csv for all.")
    ],
    device_column: Annotated[str, typer.Option(help="Of a .csv: the column that names the device.")] = "",
    label_column: Annotated[str, typer.Option(help="Of a .csv: the column with the class.")] = "",
    ignored: Annotated[
        list[str] | None, typer.Option("--ignore-column", help="Of a .csv: no feature; can be given several times.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, max=10_000, help="Rounds of every method.")] = 30,
    seeds: Annotated[int, typer.Option(min=1, max=100, help="Each draws other initial values and batches.")] = 2,
    learning_rates: Annotated[
        str, typer.Option(help="From which each method's is chosen on validation data.")
    ] = ",".join(map(str, DEFAULT_RATES)),
    limit_clients: Annotated[int, typer.Option(min=0, help="Try at most so many devices; 0: all.")] = 0,
    output: Annotated[Path, typer.Option(help=f"Folder for {CONFIG} and {ADVICE}.")] = Path("advice"),
    form: Annotated[Literal["text", "json"], typer.Option("--format", help="What is printed at the end.")] = "text",
    jobs: Annotated[int, typer.Option(min=0, help="Simulations at once, each on one core; 0: one for each core.")] = 0,
    force: Annotated[bool, typer.Option("--force", help=f"Replace {CONFIG} and {ADVICE}.")] = False,
) -> None:
    """Try the rules on your own devices' data; say which to use, and write the fleet's configuration."""
    source = DeviceSource(data, _columns(device_column, label_column, ignored or ()), limit_clients or None)
    settings = TrialSettings(rounds, seeds, _rates(learning_rates), num_processes=jobs or default_jobs())
    _prepare(output, replaces=force)
    sys.path.insert(0, str(Path.cwd()))  # a user's own model lies where they are
    with console.status("Looking at the model and the data"):
        made = make_model(DataChoice(name="trial", model=model), 0)
        devices = read_devices(source, model, made)
    for note in devices.notes:
        console.print(f"Note: {printable(note)}", markup=False, highlight=False)
    result = _try(devices, made, settings, output)
    answer = make_answer(result, make_advice(result))
    _write(output, answer)
    if form == "json":
        sys.stdout.buffer.write(answer_json(answer))
        return
    out = Console()
    out.print(answer_table(answer))
    for heading, sentences in answer.paragraphs():
        out.print(f"\n{heading}", style="bold")
        for sentence in sentences:
            out.print(Padding(Text(printable(sentence)), (0, 0, 0, 2), expand=False))
    out.print(f"\nWritten: {output / CONFIG}, {output / ADVICE}", markup=False, highlight=False)


def main(arguments: list[str]) -> None:
    """Run ``fedlag advise`` with these arguments; SIGTERM and a closed terminal end it as Ctrl+C does."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: signal.raise_signal(signal.SIGINT))
    app(args=arguments, prog_name="fedlag advise")


def _columns(device: str, label: str, ignored: list[str] | tuple[str, ...]) -> Columns | None:
    if not (device or label or ignored):
        return None
    if not (device and label):
        raise ConfigError("a .csv needs both --device-column and --label-column")
    return Columns(device, label, tuple(ignored))


def _rates(text: str) -> tuple[float, ...]:
    try:
        rates = tuple(float(word) for word in text.split(","))
    except ValueError as error:
        raise ConfigError(f"--learning-rates {text!r} is not a list of numbers, as in 0.01,0.03,0.1") from error
    if not all(0 < rate <= LARGEST_RATE for rate in rates):
        raise ConfigError(f"--learning-rates {text!r}: a learning rate is above 0, and {LARGEST_RATE:g} at most")
    return rates


def _prepare(output: Path, *, replaces: bool) -> None:
    """Make the folder; refuse before the trial what would be refused after it."""
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"cannot write to {output}: {error.strerror}; choose another --output") from error
    for name in (CONFIG, ADVICE):
        if (output / name).exists() and not replaces:
            raise ConfigError(f"{output / name} is there already; name another --output, or replace it with --force")


def _try(devices: DeviceData, model: SimulatedModel, settings: TrialSettings, output: Path) -> TrialResult:
    """Run the trial under a bar with what is left in words."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[left]}"))
    with (
        ResultStore(output / TRIAL) as store,
        tempfile.TemporaryDirectory(prefix="fedlag-advise-") as scratch,
        Progress(*columns, console=console) as bars,
    ):
        bar = bars.add_task(f"{len(devices.federation.clients)} devices", total=None, left="")

        def on_progress(progress: StudyProgress) -> None:
            left = in_words(progress.remaining)
            bars.update(bar, total=progress.num_cells, completed=progress.num_done, left=left)

        try:
            return run_trial(devices, model, settings, store, Path(scratch), on_progress)
        except KeyboardInterrupt:
            console.print(f"Interrupted. What was done is in {output / TRIAL}; the same command goes on from there.")
            raise


def _write(output: Path, answer: Answer) -> None:
    text = fleet_config(answer.result, answer.advice, answer.verdict, answer.warnings)
    try:
        (output / CONFIG).write_text(text, encoding="utf-8")
        (output / ADVICE).write_bytes(answer_json(answer))
    except OSError as error:
        raise StoreError(f"cannot write to {output}: {error.strerror}; choose another --output") from error
