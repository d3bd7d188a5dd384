"""The files of a fleet on one machine: a folder for each device, with its data and configuration, and the server's."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from string import Template

from simulations.data.watch import DeviceData, save_device_data
from simulations.demo.arms import Arm
from wire.errors import StoreError

__all__ = ["runtime_of", "write_aggregator", "write_data", "write_devices"]

NUM_EXECUTORCH_DEVICES = 2
ROUND_DURATION_S = 300.0
QUORUM = 0.8
"""Every device is waited for as long as it is there; a round goes on without those that are not."""

DEVICE = Template("""\
fleet = "$fleet"
device_id = "$device_id"
data = $data
folder = $folder
runtime = "$runtime"

[broker]
port = $port
""")

AGGREGATOR = Template("""\
fleet = "$fleet"
program = $program
initial = $initial
folder = $folder

[broker]
port = $port

[selector]
name = "$selector"

[rounds]
num_rounds = $num_rounds
cohort_size = $num_devices
quorum = $quorum
duration_s = $duration_s
seed = $seed

[training]
learning_rate = $learning_rate
""")


def runtime_of(index: int) -> str:
    """Return the runtime of the device of this index: the first two use ExecuTorch, the others ONNX Runtime."""
    return "executorch" if index < NUM_EXECUTORCH_DEVICES else "onnx"


def write_data(devices: Sequence[DeviceData], folder: Path) -> None:
    """Write each device's own examples to ``<device>.npz``."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for device in devices:
            save_device_data(device, folder / f"{device.device_id}.npz")
    except OSError as error:
        raise StoreError(f"cannot write the devices' data to {folder}: {error.strerror}; free some space") from error


def write_devices(arm: Arm, device_ids: Sequence[str], data: Path, folder: Path, port: int) -> dict[str, list[Path]]:
    """Write the devices' configurations; return runtime -> their paths."""
    paths: dict[str, list[Path]] = {"onnx": [], "executorch": []}
    for index, device_id in enumerate(device_ids):
        runtime = runtime_of(index)
        text = DEVICE.substitute(
            fleet=arm.name,
            device_id=device_id,
            data=_quote(data / f"{device_id}.npz"),
            folder=_quote(folder / device_id),
            runtime=runtime,
            port=port,
        )
        paths[runtime].append(_write(folder / f"{device_id}.toml", text))
    return paths


def write_aggregator(
    arm: Arm, *, num_devices: int, num_rounds: int, seed: int, program: Path, initial: Path, folder: Path, port: int
) -> Path:
    """Write the aggregator's configuration: every device is asked in every round."""
    text = AGGREGATOR.substitute(
        fleet=arm.name,
        program=_quote(program),
        initial=_quote(initial),
        folder=_quote(folder / "aggregator"),
        port=port,
        selector=arm.selector,
        num_rounds=num_rounds,
        num_devices=num_devices,
        quorum=math.ceil(QUORUM * num_devices),
        duration_s=ROUND_DURATION_S,
        seed=seed,
        learning_rate=arm.learning_rate,
    )
    return _write(folder / "aggregator.toml", text)


def _quote(path: Path) -> str:
    return json.dumps(str(path))  # a JSON string is a TOML string, too


def _write(path: Path, text: str) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror}; free some space") from error
    return path
