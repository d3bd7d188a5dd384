"""A home in a folder: broker, aggregator and devices as processes, the way a user runs them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from aggregator.keeping.store import FleetStore
from aggregator.round_report import RoundReport
from broker.embedded import EmbeddedBroker

NUM_CLASSES = 10
PATIENCE_S = 120.0
ROOT = Path(__file__).parents[2]


class Home:
    """One fleet on this machine.

    Args:
        folder: For everything.
        program: The folder of the exported ``digits-mlp``.
    """

    def __init__(self, folder: Path, program: Path) -> None:
        self.folder = folder
        self.program = program
        self.broker = EmbeddedBroker(folder / "broker")
        self._children: list[subprocess.Popen[bytes]] = []

    def fedlag(self, *arguments: object, crash_at: tuple[str, int] | None = None) -> subprocess.Popen[bytes]:
        """Start ``fedlag`` with these arguments; ``crash_at`` names a point of ``tests.e2e.crashing`` and its turn."""
        module = ["fedlag"] if crash_at is None else ["tests.e2e.crashing", *map(str, crash_at)]
        log = (self.folder / f"{len(self._children)}.log").open("wb")
        child = subprocess.Popen(
            [sys.executable, "-m", *module, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=log,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            cwd=ROOT,
        )
        log.close()
        self._children.append(child)
        return child

    def device(
        self, name: str, *, runtime: str = "onnx", seed: int = 0, labels: int = 0, most_examples: int | None = None
    ) -> Path:
        """Write a device's data and configuration; ``labels`` turns its labels, so that devices disagree."""
        rng = np.random.default_rng(seed)
        arrays: dict[str, np.ndarray] = {}
        for split, size in (("train", 60), ("validation", 30), ("test", 30)):
            targets = np.arange(size) % NUM_CLASSES
            centers = np.eye(64)[targets * 6] * 3
            arrays[f"x_{split}"] = (centers + rng.normal(size=(size, 64))).astype(np.float32)
            arrays[f"y_{split}"] = (targets + labels) % NUM_CLASSES
        np.savez(self.folder / f"{name}.npz", allow_pickle=False, **arrays)
        path = self.folder / f"{name}.toml"
        path.write_text(
            f'fleet = "test"\ndevice_id = "{name}"\ndata = "{name}.npz"\nfolder = "{name}"\nruntime = "{runtime}"\n'
            f"{f'most_examples = {most_examples}' if most_examples else ''}\n"
            f"[broker]\nport = {self.broker.port}\n"
        )
        return path

    def aggregator(
        self,
        selector: str,
        *,
        num_devices: int,
        num_rounds: int,
        name: str = "aggregator",
        averaging: str = "",
        quorum: int | None = None,
        rounds: str = "",
    ) -> Path:
        """Write the aggregator's configuration: everybody is asked, and must answer unless a quorum is given."""
        path = self.folder / f"{name}.toml"
        path.write_text(
            f'fleet = "test"\nprogram = {json.dumps(str(self.program))}\nfolder = "{name}"\n'
            f"[broker]\nport = {self.broker.port}\n"
            f'[selector]\nname = "{selector}"\n'
            f"[rounds]\nnum_rounds = {num_rounds}\ncohort_size = {num_devices}\nquorum = {quorum or num_devices}\n{rounds}\n"
            f"sketch_width = 256\n[averaging]\n{averaging}\n[training]\nlearning_rate = 0.05\n"
        )
        return path

    def reports(self, name: str = "aggregator") -> list[RoundReport]:
        """Return the reports of the rounds that are closed, in order."""
        folder = self.folder / name
        if not (folder / "fleet.sqlite").exists():
            return []
        with closing(FleetStore(folder)) as store:
            return store.reports()

    def wait_for_rounds(self, num_rounds: int, name: str = "aggregator") -> None:
        """Return when so many rounds are closed."""
        deadline = time.monotonic() + PATIENCE_S
        while len(self.reports(name)) < num_rounds:
            assert time.monotonic() < deadline, f"only {len(self.reports(name))} rounds closed\n{self.logs()}"
            time.sleep(0.05)

    def end(self, child: subprocess.Popen[bytes], number: signal.Signals | None = None) -> int:
        """Send a signal, if one is given, and return the exit code."""
        if number is not None:
            child.send_signal(number)
        try:
            child.communicate(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            pytest.fail(f"a process did not end\n{self.logs()}")
        return child.returncode

    def logs(self) -> str:
        """Return what all processes said on standard error."""
        return "\n".join(path.read_text(errors="replace") for path in sorted(self.folder.glob("*.log")))

    def close(self) -> None:
        """Leave nothing behind."""
        for child in self._children:
            if child.poll() is None:
                child.kill()
            child.communicate()
        self.broker.stop()
