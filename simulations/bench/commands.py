"""``fedlag bench``: how fast things are on this machine, as ratios taken in one run."""

from __future__ import annotations

import signal
import statistics
import subprocess
import sys
import time
from typing import Annotated, Any, Literal

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from simulations.bench.conflict import ConflictRow, bench_conflict
from simulations.bench.fleets import bench_fleet
from simulations.bench.round_logs import bench_log
from simulations.bench.simulating import CPU, Order, Run
from simulations.bench.step_models import STEP_MODELS
from simulations.bench.stepping import bench_steps
from simulations.bench.workloads import WORKLOADS
from simulations.rounds.opening import ENGINE_NAMES
from wire.errors import ConfigError, FleetError

__all__ = ["main"]

app = typer.Typer(add_completion=False)
console = Console(stderr=True)

ROUNDS = {
    "workload": "",
    "engine": "engine",
    "cpu_s_per_round": "CPU s/round",
    "wall_s_per_round": "wall s/round",
    "ratio_to_serial": "serial/this",
    "first_round_s": "first round s",
    "peak_memory_mb": "peak MiB",
}
CONFLICT = {
    "devices": "devices",
    "params": "parameters",
    "cpu_ms": "CPU ms",
    "ratio_to_sgemm": "sgemm/this",
    "extra_memory_mb": "extra MiB",
}
LOGS = {
    "devices": "devices",
    "params": "parameters",
    "ms_per_upload": "ms/upload",
    "ratio_to_sqlite": "SQLite/this",
    "replay_s": "replay s",
    "average_s": "average s",
    "resident_mb": "resident MB",
}
STEPS = {
    "model": "",
    "runtime": "runtime",
    "ms_per_step": "ms/step",
    "ratio_to_torch": "this/torch",
    "resident_mb": "resident MB",
}
FLEETS = {
    "devices": "devices",
    "lost": "lost",
    "round_s": "round s",
    "ack_p50_ms": "ack p50 ms",
    "ack_p99_ms": "ack p99 ms",
    "durable_p99_ms": "durable p99 ms",
    "aggregator_rss_mb": "aggregator MB",
}
Form = Annotated[Literal["table", "json"], typer.Option("--format", help="What is printed.")]


@app.callback()
def bench() -> None:
    """Time this machine. Other work on it disturbs; ratios within one run are what counts."""


@app.command()
def simulate(
    workload: Annotated[list[str] | None, typer.Option(help="T, S or L; may be given several times.")] = None,
    engine: Annotated[
        list[str] | None, typer.Option(help=f"One of {', '.join(ENGINE_NAMES)}; may be given several times.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds that are timed, after a first one.")] = 5,
    repetitions: Annotated[int, typer.Option(min=1, help="How often; engines take turns.")] = 1,
    clients: Annotated[int | None, typer.Option(min=2, help="Clients of the fleet instead of 100.")] = None,
    cohort: Annotated[int | None, typer.Option(min=1, help="Clients of a round instead of 20.")] = None,
    personal: Annotated[list[str] | None, typer.Option(help="A layer that each client keeps.")] = None,
    form: Form = "table",
) -> None:
    """Train rounds of 200 client-steps with each engine, and compare them with the serial loop."""
    engines = engine or ["serial", "stacked", "vmap", "processes"]
    rows = []
    for letter in workload or list(WORKLOADS):
        if letter not in WORKLOADS:
            raise ConfigError(f"there is no workload {letter!r}; take one of {', '.join(WORKLOADS)}")
        runs: dict[str, list[Run]] = {}
        for _ in range(repetitions):
            for name in engines:
                with console.status(f"{letter}: {name}"):
                    order = Order(
                        workload=letter,
                        engine=name,
                        num_rounds=rounds,
                        num_clients=clients,
                        cohort_size=cohort,
                        personal_layers=tuple(personal or ()),
                        started_s=time.time(),
                        has_loss=not personal,
                    )
                    runs.setdefault(name, []).append(_run(order))
        rows += [_row(found, runs) for found in runs.values()]
    _show(rows, ROUNDS, form)


@app.command()
def step(
    model: Annotated[
        list[str] | None, typer.Option(help=f"One of {', '.join(STEP_MODELS)}; may be given several times.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Examples in a step.")] = 32,
    steps: Annotated[int, typer.Option(min=1, help="Steps that are timed; the runtimes take turns.")] = 100,
    form: Form = "table",
) -> None:
    """Time a device's training step on each runtime, and compare it with torch's eager mode."""
    rows: list[dict[str, Any]] = []
    for name in model or list(STEP_MODELS):
        if name not in STEP_MODELS:
            raise ConfigError(f"there is no model {name!r} to time; take one of {', '.join(STEP_MODELS)}")
        with console.status(name):
            rows += [msgspec.to_builtins(row) for row in bench_steps(name, batch, steps)]
    _show(rows, STEPS, form)


@app.command("log")
def round_log(
    devices: Annotated[int, typer.Option(min=1, help="Devices in the cohort.")] = 2000,
    params: Annotated[int, typer.Option(min=1, help="Parameters that each uploads.")] = 262_144,
    form: Form = "table",
) -> None:
    """Time how an aggregator makes uploads durable, reads them again and averages them; they need room on the disk."""
    with console.status(f"{devices} uploads of {4e-6 * params:.1f} MB"):
        row = bench_log(devices, params)
    _show([msgspec.to_builtins(row)], LOGS, form)


@app.command()
def fleet(
    devices: Annotated[
        list[int] | None, typer.Option(min=2, help="Virtual devices; may be given several times. By default 100.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds that are timed.")] = 1,
    form: Form = "table",
) -> None:
    """Let virtual devices upload 1 MB each at once, through mosquitto over TLS, to an aggregator; they need room on the disk."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what it wrote is removed then, too: it may be gigabytes
    rows = []
    for number in devices or [100]:
        with console.status(f"{number} devices"):
            rows.append(msgspec.to_builtins(bench_fleet(number, rounds)))
    _show(rows, FLEETS, form)


@app.command()
def conflict(
    devices: Annotated[int, typer.Option(min=2, help="Devices in the cohort.")] = 100,
    params: Annotated[int, typer.Option(min=1, help="Parameters of the layer.")] = 582_026,
    repetitions: Annotated[int, typer.Option(min=1, help="How often; the two take turns.")] = 5,
    form: Form = "table",
) -> None:
    """Find all pairs of devices in conflict on one layer, and compare with the plain product of matrices."""
    row: ConflictRow = bench_conflict(devices, params, repetitions)
    _show([msgspec.to_builtins(row)], CONFLICT, form)


def main(arguments: list[str]) -> None:
    """Run ``fedlag bench`` with these arguments."""
    app(args=arguments, prog_name="fedlag bench")


def _run(order: Order) -> Run:
    """Return what a process of its own has measured."""
    command = [sys.executable, "-m", "simulations.bench.simulating", msgspec.json.encode(order).decode()]
    done = subprocess.run(command, capture_output=True, check=False)  # noqa: S603 - our own module
    if done.returncode:
        last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise FleetError(f"{order.engine} on workload {order.workload} ended with {done.returncode}: {last}")
    return msgspec.json.decode(done.stdout, type=Run)


def _row(runs: list[Run], of_letter: dict[str, list[Run]]) -> dict[str, Any]:
    """Return the median run, with its ratio to the serial loop of the same repetition on the same device.

    On a processor that is of processor seconds, all processes together; on a GPU of seconds by the clock.
    """
    is_cpu = runs[0].device == CPU

    def seconds(run: Run) -> float:
        return run.cpu_s_per_round if is_cpu else run.wall_s_per_round

    serial = of_letter.get("serial" if is_cpu else "cuda-serial", [])
    row: dict[str, Any] = msgspec.to_builtins(sorted(runs, key=seconds)[len(runs) // 2])
    ratios = [seconds(other) / seconds(run) for run, other in zip(runs, serial, strict=False)]
    row["ratio_to_serial"] = statistics.median(ratios) if ratios else None
    return row


def _show(rows: list[dict[str, Any]], columns: dict[str, str], form: str) -> None:
    """Print all that was measured as JSON, or these columns of it as a table."""
    if form == "json":
        sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(rows), indent=2) + b"\n")
        return
    table = Table(box=None)
    for name, title in columns.items():
        table.add_column(title, justify="left" if isinstance(rows[0][name], str) else "right")
    for row in rows:
        shown = (row[name] for name in columns)
        table.add_row(*(f"{value:.3g}" if isinstance(value, float) else str(value) for value in shown))
    Console().print(table)
