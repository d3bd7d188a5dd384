"""``fedlag simulate``: studies of methods on scenarios, resumable, with tables and one page of pictures."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Literal, get_args

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, track
from rich.progress import Progress as Bars
from rich.table import Table

from simulations.faults.attacks import ATTACKS
from simulations.faults.hostile_fleet import DEFENSES, AttackRow, Data, run_attack
from simulations.faults.liars import LIES, RULES, LieRow, run_lie
from simulations.faults.spec import parse_spec
from simulations.faults.trial import run_trial
from simulations.study.conduct import Progress, conduct_study, default_jobs
from simulations.study.config import load_study, read_tree
from simulations.study.evidence import Profile, gather_evidence, plan_profile
from simulations.study.evidence_page import write_evidence
from simulations.study.merging import Source, merge_plans
from simulations.study.outcome import CellOutcome
from simulations.study.plan import StudyPlan, plan_studies, plan_study
from simulations.study.remaining import in_words
from simulations.study.report import heat_maps_of, render_study
from simulations.study.store import ResultStore
from simulations.study.summary import StudySummary
from simulations.study.summing import summarize
from simulations.study.sweep import parse_grid, sweep_studies
from simulations.study.tables import scenario_table, summary_json
from wire.errors import FleetError, StoreError

__all__ = ["main"]

app = typer.Typer(add_completion=False, no_args_is_help=True)
console = Console(stderr=True)

RESULTS = "results.sqlite"

Config = Annotated[Path, typer.Argument(help="The study, a TOML file; docs/simulations.md explains it.")]
Output = Annotated[Path, typer.Option(help="Folder for results.sqlite, summary.json and report.html.")]
Form = Annotated[Literal["table", "json"], typer.Option("--format", help="What is printed at the end.")]
Jobs = Annotated[int, typer.Option(min=0, help="Cells that run at once, each on one core; 0: one for each core.")]


@app.callback()
def simulate() -> None:
    """Compare methods on scenarios, or on your own model and data."""


@app.command()
def run(config: Config, output: Output = Path("study-results"), jobs: Jobs = 0, form: Form = "table") -> None:
    """Run a study, or what is missing of it."""
    _conduct(lambda: plan_study(load_study(config)), output, jobs, form)


@app.command()
def sweep(
    config: Config,
    settings: Annotated[
        list[str], typer.Option("--set", help="KEY=VALUE,VALUE: every combination is run; can be given several times.")
    ],
    output: Output = Path("sweep-results"),
    jobs: Jobs = 0,
    form: Form = "table",
) -> None:
    """Run a study with every combination of some options' values."""
    grids = [parse_grid(text) for text in settings]
    _conduct(lambda: plan_studies(sweep_studies(read_tree(config), config, grids)), output, jobs, form)


@app.command()
def evidence(
    profile: Annotated[
        Profile, typer.Option(help="full takes days on two cores, the others up to two hours each.")
    ] = "cpu",
    output: Output = Path("evidence-results"),
    page: Annotated[
        Path | None, typer.Option(help="Renew the tables of this page, and the .json beside it; absent: neither.")
    ] = None,
    jobs: Jobs = 0,
    form: Form = "table",
) -> None:
    """Run the study behind the project's claims, or what is missing of it."""
    _conduct(lambda: plan_profile(profile), output, jobs, form)
    if page is not None:
        with ResultStore(output / RESULTS) as store:
            write_evidence(page, gather_evidence(profile, store.read_plan(), store))


@app.command()
def compare(
    results: Annotated[list[Path], typer.Argument(help="Files of results, as `run` and `sweep` write them.")],
    output: Annotated[Path | None, typer.Option(help="Folder for summary.json and report.html; absent: none.")] = None,
    form: Form = "table",
) -> None:
    """Show results again, or several files' results side by side."""
    with ExitStack() as stack:
        stores = [stack.enter_context(ResultStore(path, must_exist=True)) for path in results]
        plan = merge_plans([Source(name, it.read_plan()) for name, it in zip(_names(results), stores, strict=True)])
        summary = _report(plan, stores, output)
    _show(summary, form)


@app.command()
def fleet(
    faults: Annotated[
        str, typer.Option(help="all, none, or a list as lost=0.2,kills=10; docs/simulations.md has the names.")
    ] = "all",
    schedules: Annotated[int, typer.Option(min=1, help="How many, each from the next seed.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="The first.")] = 0,
    form: Form = "table",
) -> None:
    """Run a small fleet, aggregator and devices, through schedules of faults, and check what must always hold."""
    spec, trials = parse_spec(faults), []
    for number in track(range(seed, seed + schedules), "schedules", console=console):
        trials.append(run_trial(spec, number))
        for line in trials[-1].broken:
            console.print(f"seed {number}: {line}", soft_wrap=True)
    if form == "json":
        sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(trials), indent=2) + b"\n")
    broken = [trial.seed for trial in trials if trial.broken]
    messages, hours = sum(it.num_messages for it in trials), sum(it.minutes for it in trials) / 60
    console.print(f"{schedules} schedules, {messages} messages, {hours:.1f} simulated hours, {len(broken)} broken")
    if broken:
        repeat = f"fedlag simulate fleet --faults {faults} --schedules 1 --seed {broken[0]}"
        raise FleetError(f"something did not hold in {len(broken)} of {schedules} schedules; the first again: {repeat}")


@app.command()
def attacks(seeds: Annotated[int, typer.Option(min=1, help="Fleets for each pair.")] = 5, form: Form = "table") -> None:
    """Let a fifth of the devices send hostile updates, or lie so that a layer becomes personal, and show what helps."""
    kinds: tuple[Data, ...] = get_args(Data)
    cells = [(data, defense, attack) for data in kinds for defense in DEFENSES for attack in ATTACKS]
    updates = [run_attack(*cell, seeds) for cell in track(cells, "updates", console=console)]
    pairs = [(rule, lie) for rule in RULES for lie in LIES]
    lies = [run_lie(*pair, seeds) for pair in track(pairs, "lies", console=console)]
    if form == "json":
        rows = {"attacks": updates, "lies": lies}
        sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(rows), indent=2) + b"\n")
        return
    for data in kinds:
        _show_attacks(f"data {data}: averaging", [it for it in updates if it.data == data])
    _show_lies(lies)


def _show_attacks(title: str, rows: Sequence[AttackRow]) -> None:
    table = Table(title, *ATTACKS, box=None)
    for defense in DEFENSES:
        table.add_row(defense, *(_with_error(it.accuracy, it.standard_error) for it in rows if it.defense == defense))
    Console().print(table)


def _show_lies(rows: Sequence[LieRow]) -> None:
    table = Table("lies: rule", *LIES, box=None)
    for rule in RULES:
        told = [it for it in rows if it.rule == rule]
        table.add_row(rule, *(f"{_with_error(it.accuracy, it.standard_error)}, {it.chosen:.0%}" for it in told))
    Console().print(table)


def _with_error(accuracy: float, standard_error: float | None) -> str:
    return f"{accuracy:.1%}" if standard_error is None else f"{accuracy:.1%} ± {standard_error:.1%}"


def main(arguments: list[str]) -> None:
    """Run ``fedlag simulate`` with these arguments; SIGTERM and a closed terminal end it as Ctrl+C does."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has it
            signal.signal(number, signal.default_int_handler)
    app(args=arguments, prog_name="fedlag simulate")


def _conduct(make_plan: Callable[[], StudyPlan], output: Path, jobs: int, form: str) -> None:
    _make_folder(output)
    with ResultStore(output / RESULTS) as store:
        with console.status("Looking at the study's data and models"):
            plan = make_plan()
        try:
            _run(plan, store, jobs or default_jobs())
        except KeyboardInterrupt:
            console.print(f"Interrupted. What was done is in {output / RESULTS}; the same command goes on from there.")
            raise
        whole = merge_plans([Source(plan.name, plan)])
        summary = _report(whole, [store], output)
    _show(summary, form)
    console.print(f"The report with its pictures: {output / 'report.html'}")
    if summary.failures:
        raise FleetError(
            f"{len(summary.failures)} of the study did not work; {output / 'report.html'} says why, and the same command "
            "tries again what failed"
        )


def _run(plan: StudyPlan, store: ResultStore, num_processes: int) -> None:
    """Run what is missing, under a bar with what is left in words."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[left]}"))
    with Bars(*columns, console=console) as bars:
        bar = bars.add_task("cells", total=len(plan.cells), left="")

        def on_progress(progress: Progress) -> None:
            if progress.latest is not None and progress.latest[1].status != "done":
                planned, outcome = progress.latest
                told = f"{planned.method} on {planned.scenario}, rate {planned.cell.learning_rate:g}: {outcome.reason}"
                bars.console.print(told, markup=False, highlight=False)
            bars.update(bar, completed=progress.num_done, left=in_words(progress.remaining))

        conduct_study(plan, store, num_processes=num_processes, on_progress=on_progress)


def _report(plan: StudyPlan, stores: Sequence[ResultStore], output: Path | None) -> StudySummary:
    """Sum up; write what other programs and people read."""

    def located(digest: str) -> tuple[ResultStore, str]:
        place, _, own = digest.partition(":")
        return stores[int(place)], own

    def score(digest: str) -> float | None:
        store, own = located(digest)
        return store.score(own)

    def read(digest: str) -> CellOutcome | None:
        store, own = located(digest)
        return store.read(own)

    def read_end(digest: str) -> CellOutcome | None:
        store, own = located(digest)
        return store.read(own, with_rounds=False)

    summary = summarize(plan, score, read_end)
    if output is not None:
        _make_folder(output)
        page = render_study(summary, heat_maps_of(plan, score, read))
        try:
            (output / "summary.json").write_bytes(summary_json(summary))
            (output / "report.html").write_text(page, encoding="utf-8")
        except OSError as error:
            raise StoreError(f"cannot write to {output}: {error.strerror}; choose another --output") from error
    return summary


def _show(summary: StudySummary, form: str) -> None:
    if form == "json":
        sys.stdout.buffer.write(summary_json(summary))
        return
    for scenario in summary.scenarios:
        Console().print(scenario_table(summary, scenario))
        for note in scenario.notes:
            console.print(f"{scenario.scenario}: {note}", markup=False, highlight=False)
    for failure in summary.failures:
        console.print(failure, markup=False, highlight=False)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"cannot write to {folder}: {error.strerror}; choose another --output") from error


def _names(paths: Sequence[Path]) -> list[str]:
    """Return what tells files apart: the folder that a study made, a file's own name, or all of it."""
    short = [path.resolve().parent.name if path.name == RESULTS else path.stem for path in paths]
    return short if len(set(short)) == len(short) else [str(path) for path in paths]
