"""Time our simulations beside Flower, pfl-research, PFLlib's manner and the plain serial loop.

Every program trains the same clients with the same batches from the same initial values. They run one after the other,
A B C D, A B C D, so that what else the machine does meets them alike. All have ``OMP_NUM_THREADS=1``: Flower trains in
one Ray actor per CPU, the others in what processes they like. CPU time is that of all of a program's processes.
Numbers compare within one run of this script, and with no other.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from scripts import environment
from scripts.peers import accounting, results
from scripts.peers.installation import python_of_peers

__all__ = ["PEERS", "parse", "run_ours", "run_program"]

PEERS = {"flower": "flower", "pfl": "pfl_research", "pfllib": "pfllib", "serial": "serial", "ours": ""}
OTHERS = ("flower", "pfl")  # need an environment of their own
WORKLOADS = ("T", "S", "L")
TIMEOUT_S = 1800.0
LEAVING_S = 30.0
QUIET = {"FLWR_TELEMETRY_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the command line's workloads, rounds, repetitions, format and peers."""
    parser = argparse.ArgumentParser(prog="scripts/bench-peers", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--workload", choices=WORKLOADS, nargs="+", default=list(WORKLOADS), help="default: all")
    parser.add_argument("--rounds", type=at_least_1, default=10, metavar="N", help="timed, after one to warm up")
    parser.add_argument("--repetitions", type=at_least_1, default=3, metavar="K", help="of the whole comparison")
    parser.add_argument("--format", choices=("table", "json"), default="table")
    parser.add_argument("--peers", type=names_of_peers, default=list(PEERS), metavar=",".join(PEERS))
    return parser.parse_args(arguments)


def at_least_1(text: str) -> int:
    """Return a positive number."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


def names_of_peers(text: str) -> list[str]:
    """Return the peers of a list with commas, each once."""
    names = list(dict.fromkeys(name.strip() for name in text.split(",")))
    unknown = [name for name in names if name not in PEERS]
    if unknown:
        raise argparse.ArgumentTypeError(f"there is no peer {unknown[0]!r}: take of {','.join(PEERS)}")
    return names


def surroundings(mark: str) -> dict[str, str]:
    """Return the environment of every program."""
    alike = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(environment.ROOT), "PYTHONUNBUFFERED": "1"}
    return {**os.environ, **QUIET, **alike, accounting.MARK: mark}


def run_program(peer: str, python: Path, workload: str, num_rounds: int, repetition: int) -> results.Run:
    """Return what one program cost and learned, or its problem."""
    mark = uuid.uuid4().hex
    failed = results.Run(peer, workload, repetition)
    memory = accounting.PeakMemory(mark)
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "result.json"
        command = [str(python), "-m", "scripts.peers.program", PEERS[peer], "--workload", workload]
        command += ["--rounds", str(num_rounds), "--started", repr(time.monotonic()), "--output", str(output)]
        with memory.watch():
            problem = run_quietly(command, mark)
        if problem or not output.exists():
            return replace(failed, problem=problem or "it ended without a result")
        result = json.loads(output.read_text())
    return results.Run(peer, workload, repetition, peak_memory_mb=memory.peak_mb or None, **result)


def run_quietly(command: list[str], mark: str) -> str:
    """Run a command until all its processes have ended; return the last of what it said if it failed."""
    with tempfile.TemporaryFile() as said:
        try:
            done = subprocess.run(
                command, env=surroundings(mark), cwd=environment.ROOT, stdout=said, stderr=said,
                timeout=TIMEOUT_S, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return f"it took more than {TIMEOUT_S:.0f} s"
        finally:
            see_off(mark)
        said.seek(0)
        lines = said.read().decode(errors="replace").strip().splitlines()
    return "" if done.returncode == 0 else f"exit code {done.returncode}\n" + "\n".join(lines[-15:])


def see_off(mark: str) -> None:
    """Wait until the last process of a run has ended; end those that stay."""
    deadline_s = time.monotonic() + LEAVING_S
    while accounting.num_alive(mark) and time.monotonic() < deadline_s:
        time.sleep(0.1)
    for pid in accounting.processes(mark):
        try:
            os.kill(pid, 9)
        except ProcessLookupError:
            continue


def run_ours(workload: str, num_rounds: int, repetition: int) -> results.Run:
    """Return what the planner of ``fedlag bench simulate`` chose, or why there is nothing."""
    missing = results.Run("ours", workload, repetition)
    command = [sys.executable, "fedlag.py", "bench", "simulate", "--engine", "auto", "--workload", workload]
    try:
        done = subprocess.run(
            [*command, "--rounds", str(num_rounds), "--format", "json"], env=surroundings(uuid.uuid4().hex), cwd=environment.ROOT,
            capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return replace(missing, problem=f"it took more than {TIMEOUT_S:.0f} s")
    if done.returncode:
        said = (done.stderr.strip() or "nothing was said").splitlines()[0]
        return replace(missing, problem=f"missing: fedlag bench simulate ended with {done.returncode}: {said}")
    return best_of_ours(done.stdout, missing)


def best_of_ours(text: str, missing: results.Run) -> results.Run:
    """Return the cheapest row that is not the serial loop's."""
    try:
        rows = [row for row in json.loads(text) if row["engine"] != "serial" and row.get("cpu_s_per_round")]
        best = min(rows, key=lambda row: row["cpu_s_per_round"])
    except (ValueError, KeyError, TypeError):
        return replace(missing, problem="missing: fedlag bench simulate gave no row of an engine")
    keys = ("cpu_s_per_round", "wall_s_per_round", "first_round_s", "peak_memory_mb", "loss")
    versions = {"engine " + missing.workload: best["engine"]}
    return replace(missing, **{key: best.get(key) for key in keys}, versions=versions)


def main() -> None:
    """Run the comparison and print it; end with 1 if a program failed."""
    options = parse()
    if platform.system() != "Linux":
        sys.exit("scripts/bench-peers reads CPU time and memory from Linux's /proc: run it on Linux")
    python = python_of_peers() if set(options.peers) & set(OTHERS) else Path(sys.executable)
    runs = []
    for workload in options.workload:
        for repetition in range(1, options.repetitions + 1):
            for peer in options.peers:
                with environment.step(f"{workload} {repetition}/{options.repetitions} {peer}"):
                    if peer == "ours":
                        runs.append(run_ours(workload, options.rounds, repetition))
                    else:
                        runs.append(run_program(peer, python, workload, options.rounds, repetition))
    runs = results.check_losses(runs)
    rows = results.summarize(runs)
    settings = {"rounds": options.rounds, "repetitions": options.repetitions, "loss_band": results.LOSS_BAND}
    print(results.format_table(rows) if options.format == "table" else results.format_json(rows, runs, settings))
    if any(row.problem and not row.problem.startswith("missing") for row in rows):
        sys.exit(1)


if __name__ == "__main__":
    main()
