"""What goes wrong at a user's home: one line that says what and what to do, a documented exit code, no traceback."""

from __future__ import annotations

import resource
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.e2e.home import Home

pytestmark = pytest.mark.slow


def run(*arguments: object, limit_bytes: int | None = None) -> subprocess.CompletedProcess[str]:
    def limit_files() -> None:
        if limit_bytes is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))

    return subprocess.run(
        [sys.executable, "-m", "fedlag", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        preexec_fn=limit_files,
    )


def assert_one_line(result: subprocess.CompletedProcess[str], exit_code: int, *words: str) -> None:
    assert result.returncode == exit_code, result.stderr
    assert "Traceback" not in result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith("fedlag ")]
    assert len(lines) == 1, result.stderr
    for word in words:
        assert word in lines[0]


def test_an_unreachable_broker_is_named_with_its_port_and_what_to_do(home: Home) -> None:
    home.broker.stop()
    result = run("edge", "run", home.device("attic"))
    assert_one_line(result, 6, f"127.0.0.1:{home.broker.port}", "fedlag broker")


def test_an_occupied_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert_one_line(run("broker", "--port", port), 6, str(port))


def test_a_missing_configuration_is_named(tmp_path: Path) -> None:
    assert_one_line(run("edge", "run", tmp_path / "nothing.toml"), 3, "nothing.toml")
    assert_one_line(run("aggregator", "run", tmp_path / "nothing.toml"), 3, "nothing.toml")


def test_an_unknown_option_and_an_unknown_selector_are_named(home: Home) -> None:
    path = home.device("attic")
    path.write_text('color = "red"\n' + path.read_text())
    assert_one_line(run("edge", "run", path), 3, "color")
    config = home.aggregator("fedsomething", num_devices=2, num_rounds=1)
    assert_one_line(run("aggregator", "run", config), 3, "fedsomething", "fedlag-swap")


@pytest.mark.parametrize("damage", ["missing", "broken", "wrong shape"])
def test_data_that_cannot_be_used_ends_the_device_with_its_file_name(home: Home, damage: str) -> None:
    path, data = home.device("attic"), home.folder / "attic.npz"
    if damage == "missing":
        data.unlink()
    elif damage == "broken":
        data.write_bytes(data.read_bytes()[:100])
    else:
        inputs = np.zeros((10, 3), dtype=np.float32)
        np.savez(data, x_train=inputs, y_train=np.arange(10), x_validation=inputs, y_validation=np.arange(10))
    server = home.fedlag("aggregator", "run", home.aggregator("fedavg", num_devices=1, num_rounds=1))
    assert_one_line(run("edge", "run", path), 4, "attic.npz")
    home.end(server, signal.SIGTERM)


def test_a_program_that_does_not_match_its_manifest_is_refused(home: Home) -> None:
    altered = home.folder / "altered"
    shutil.copytree(home.program, altered)
    (altered / "train.onnx").write_bytes((altered / "train.onnx").read_bytes() + b"x")
    home.program = altered
    config = home.aggregator("fedavg", num_devices=2, num_rounds=1)
    assert_one_line(run("aggregator", "run", config), 5, "train.onnx")


def test_a_full_disk_ends_the_aggregator_with_the_file_that_it_could_not_write(home: Home) -> None:
    config = home.aggregator("fedavg", num_devices=2, num_rounds=1)
    assert_one_line(run("aggregator", "run", config, limit_bytes=1000), 7, "free some space")


def test_an_unknown_verb_is_answered_with_those_that_exist() -> None:
    result = run("dance")
    assert result.returncode == 2
    assert "dance" in result.stderr
    assert "demo" in result.stderr
