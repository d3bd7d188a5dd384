"""A Ray cluster gives what one process gives, also when a worker is killed; without one, people are told what to do.

Ray is not in the environment of the tests: 80 MB to download for one engine. It is installed once into ``.ray_cache``,
which the programs started here have in their path.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from simulations.engines.model import simulate_model
from simulations.models import load_simulation_model
from simulations.rounds.opening import plan_workers
from simulations.rounds.ray_cluster import join_cluster
from tests.simulations.rounds.ray_driver import make_population
from wire.errors import ConfigError

ROOT = Path(__file__).resolve().parents[3]
CACHE = ROOT / ".ray_cache"
PINS = Path(__file__).with_name("ray_pins.txt")
START_S, SCENARIO_S = 60.0, 180.0
EXACT = 1e-6

Environ = dict[str, str]


@pytest.fixture(scope="module")
def environ() -> Environ:
    """The environment of a program that can import Ray."""
    stamp, made_from = CACHE / "stamp.txt", PINS.read_text() + sys.version
    if not stamp.exists() or stamp.read_text() != made_from:
        shutil.rmtree(CACHE, ignore_errors=True)
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--only-binary=:all:"]
        done = subprocess.run(
            [*command, "--target", str(CACHE), "--requirement", str(PINS)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            tell = pytest.fail if os.environ.get("CI") else pytest.skip
            tell(f"Ray cannot be installed: {done.stderr}")
        stamp.write_text(made_from)
    path = os.pathsep.join([str(CACHE), str(ROOT)])
    return {**os.environ, "PYTHONPATH": path, "RAY_USAGE_STATS_ENABLED": "0", "RAY_DISABLE_IMPORT_WARNING": "1"}


@pytest.fixture(scope="module")
def cluster(environ: Environ) -> Iterator[Environ]:
    """A cluster of two processes, and the environment of a program that joins it."""
    address = f"127.0.0.1:{free_port()}"
    folder = Path(tempfile.mkdtemp(prefix="ray-"))  # pytest's own are too long for the names of Ray's sockets
    options = {
        "port": address.rpartition(":")[2],
        "node-ip-address": "127.0.0.1",
        "num-cpus": 2,
        "object-store-memory": 100_000_000,
        "include-dashboard": "false",
        "temp-dir": folder,
    }
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats"]
    command += [f"--{name}={value}" for name, value in options.items()]
    with (folder / "said.txt").open("w+") as said:
        ray = subprocess.Popen(command, env=environ, stdout=said, stderr=said, start_new_session=True)
        try:
            wait_until_started(ray, folder / "said.txt")
            yield {**environ, "RAY_ADDRESS": address}
        finally:
            ray.send_signal(signal.SIGTERM)
            try:
                ray.wait(30)
            except subprocess.TimeoutExpired:
                ray.kill()
                ray.wait()
            for pid in processes_of(folder):
                os.kill(pid, signal.SIGKILL)
            shutil.rmtree(folder, ignore_errors=True)


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


def processes_of(folder: Path) -> list[int]:
    """The processes of the cluster with this folder: each of Ray's servers is told its name."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if os.fsencode(folder) in (process / "cmdline").read_bytes():
                found.append(int(process.name))
    return found


def wait_until_started(ray: subprocess.Popen[bytes], said: Path) -> None:
    deadline = time.monotonic() + START_S
    while "Ray runtime started" not in said.read_text():
        assert ray.poll() is None, said.read_text()
        assert time.monotonic() < deadline, said.read_text()
        time.sleep(0.1)


def run(scenario: str, environ: Environ) -> dict[str, Any]:
    """What a program of ``ray_driver`` finds."""
    with tempfile.NamedTemporaryFile() as answer:  # Ray may print what it likes
        command = [sys.executable, "-m", "tests.simulations.rounds.ray_driver", scenario, answer.name]
        done = subprocess.run(
            command, env=environ, cwd=ROOT, capture_output=True, text=True, timeout=SCENARIO_S, check=False
        )
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(Path(answer.name).read_bytes())
        return found


def assert_same(found: dict[str, Any]) -> None:
    assert found["has_same_cohorts"]
    assert found["has_same_decisions"]
    assert found["difference"] <= EXACT
    assert found["loss_difference"] <= EXACT


@pytest.mark.slow
def test_swap_tests_and_personal_layers_are_those_of_one_process(cluster: Environ) -> None:
    found = run("swap", cluster)
    assert_same(found)
    assert found["personal_layers"]
    assert found["num_swap_tests"] > 2
    assert len(found["processes"]) == 2
    assert found["cpu_s"] > 0


@pytest.mark.slow
def test_dittos_models_are_those_of_one_process(cluster: Environ) -> None:
    assert_same(run("ditto", cluster))


@pytest.mark.slow
def test_a_killed_workers_chunk_is_run_again(cluster: Environ) -> None:
    found = run("killed", cluster)
    assert found["killed"] in found["processes"]
    assert len(found["processes"]) > 2, "another process has taken its place"
    assert_same(found)


@pytest.mark.slow
def test_a_chunk_whose_workers_all_die_ends_the_round(cluster: Environ) -> None:
    error = run("lost", cluster)["error"]
    assert error.startswith("FleetError: the workers of a chunk of clients died 1 time")
    assert "start Ray with fewer CPUs" in error


@pytest.mark.slow
def test_a_machine_with_another_version_is_refused(cluster: Environ) -> None:
    error = run("other-code", cluster)["error"]
    assert error.startswith("FleetError: ")
    assert "has another version of this project" in error


@pytest.mark.slow
def test_the_engine_is_opened_by_its_name(cluster: Environ) -> None:
    assert run("opened", cluster) == {"kind": "RayWorkers", "round_number": 10}


@pytest.mark.slow
def test_an_address_where_no_cluster_is_says_how_to_start_one(environ: Environ) -> None:
    address = f"127.0.0.1:{free_port()}"
    hasty = {"RAY_gcs_rpc_server_connect_timeout_s": "1", "RAY_py_gcs_connect_timeout_s": "1"}
    error = run("opened", {**environ, **hasty, "RAY_ADDRESS": address})["error"]
    assert error.startswith(f"ConfigError: no Ray cluster can be joined at RAY_ADDRESS={address}: start one with `ray")


def test_a_machine_without_a_cluster_says_how_to_start_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(address: str, **_: object) -> None:
        raise ConnectionError(f"nothing at {address}")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda: False, init=init))
    with pytest.raises(ConfigError, match=r"on this machine: start one with `ray start --head .*nothing at auto"):
        join_cluster()


def test_without_ray_people_are_told_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    model = simulate_model(load_simulation_model("letter-mlp"))
    with pytest.raises(ConfigError, match=r'run `pip install "ray>=2\.50"`'):
        plan_workers(model, make_population(model, 60), engine="ray")
