"""A whole fleet under load: a real aggregator, mosquitto over TLS, and virtual devices that all answer at once.

Everybody is asked and everybody must answer, so a round takes as long as the slowest upload. What a device was told is held
against what the aggregator has on its disk at the end: an upload of which it heard ``stored`` or ``counted`` and that no receipt
names is lost.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import resource
import shutil
import statistics
import tempfile
import time
from contextlib import AsyncExitStack, closing, suppress
from pathlib import Path

import msgspec
import numpy as np
from safetensors.numpy import save_file

from aggregator.keeping.store import FleetStore
from broker.authority import Authority, Identity
from broker.mosquitto import MosquittoBroker, find_mosquitto
from simulations.bench.crowd import CrowdOrder
from simulations.bench.ledgers import CrowdLedger, DeviceLedger, count_lost, delays_ms
from simulations.demo.processes import Process, run_process
from simulations.loopback.numpy_program import PROGRAM_FILES, initial_values, perceptron_manifest
from wire.broker_address import BrokerAddress
from wire.errors import FleetError, StoreError
from wire.manifest import encode_manifest
from wire.tensors import unflatten_layer

__all__ = ["FleetRow", "bench_fleet"]

FLEET = "bench"
AGGREGATOR = "aggregator"
SIZES = (256, 512, 224, 64, 10)
"""A perceptron with 261,546 parameters: 1.05 MB of float32 in four layers."""
DEVICES_PER_PROCESS = 500
DESCRIPTORS_PER_DEVICE = 2
SPARE_DESCRIPTORS = 200
SAMPLE_S = 0.2
VALID_FOR = dt.timedelta(days=2)
MEGABYTE = 10**6

CONFIGURATION = """\
fleet = "{fleet}"
program = "program"
folder = "store"
[broker]
host = "{host}"
port = {port}
ca = "{ca}"
certificate = "{certificate}"
key = "{key}"
[selector]
name = "fedavg"
[rounds]
num_rounds = {num_rounds}
cohort_size = {num_devices}
quorum = {num_devices}
duration_s = 86400.0
gather_s = 86400.0
"""


class FleetRow(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured.

    Args:
        devices: All of them are asked in each round, and all answer.
        rounds: That were timed.
        upload_mb: Values that each device uploads in a round, float32, in 10**6 bytes.
        lost: Uploads of which a device heard ``stored`` or ``counted``, and that the aggregator's disk does not know.
        ready_s: Wall time of the aggregator outside rounds: most of it passes until all devices are there.
        round_s: Wall time from the invitations to the close, median of the rounds.
        ack_p50_ms: From a device's first word of its summary until it hears that its upload is stored, the wait for the
            window included; median of all uploads.
        ack_p99_ms: The same of the slowest in a hundred.
        durable_p50_ms: From the device's handing its last part to the link until it hears that the upload is stored, median.
        durable_p99_ms: The same of the slowest in a hundred.
        aggregator_rss_mb: The most resident memory that the aggregator's process has had, in 10**6 bytes.
        aggregator_cpu_s: Its processor seconds, from its start to its end.
    """

    devices: int
    rounds: int
    upload_mb: float
    lost: int
    ready_s: float
    round_s: float
    ack_p50_ms: float
    ack_p99_ms: float
    durable_p50_ms: float
    durable_p99_ms: float
    aggregator_rss_mb: float
    aggregator_cpu_s: float


def bench_fleet(num_devices: int, num_rounds: int) -> FleetRow:
    """Run a fleet below the folder for temporary files; its uploads need room there.

    Args:
        num_devices: At least 2.
        num_rounds: That are timed, at least 1.

    Raises:
        BrokerError: If mosquitto is not installed.
        FleetError: If a process fails, or the system allows too few connections.
        StoreError: If the disk has too little room.
    """
    find_mosquitto()
    _raise_limit(DESCRIPTORS_PER_DEVICE * num_devices + SPARE_DESCRIPTORS)
    with tempfile.TemporaryDirectory(prefix="fedlag-bench-") as place:
        folder = Path(place)
        _check_room(folder, num_devices)
        _write_program(folder / "program")
        return asyncio.run(_run(folder, num_devices, num_rounds))


def _raise_limit(num_descriptors: int) -> None:
    """Allow this process and its children so many open files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < num_descriptors:
        raise FleetError(f"{num_descriptors} open files are needed, {hard} are allowed: raise `ulimit -Hn`")
    if soft != resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, num_descriptors), hard))


def _check_room(folder: Path, num_devices: int) -> None:
    needed_mb = 2 * num_devices * _upload_mb()
    free_mb = shutil.disk_usage(folder).free / MEGABYTE
    if free_mb < needed_mb:
        raise StoreError(f"{folder} has room for {free_mb:.0f} MB, this needs {needed_mb:.0f}: set TMPDIR elsewhere")


def _upload_mb() -> float:
    return 4 * sum(layer.num_params for layer in perceptron_manifest(SIZES).layers) / MEGABYTE


def _write_program(folder: Path) -> None:
    """Write what ``fedlag export`` would; no device looks inside."""
    folder.mkdir()
    manifest = perceptron_manifest(SIZES)
    for name, data in {"manifest.json": encode_manifest(manifest), **PROGRAM_FILES}.items():
        (folder / name).write_bytes(data)
    vectors = initial_values(manifest, np.random.default_rng(0))
    tensors = {k: v for layer in manifest.layers for k, v in unflatten_layer(layer, vectors[layer.name]).items()}
    save_file(tensors, folder / "initial.safetensors")


async def _run(folder: Path, num_devices: int, num_rounds: int) -> FleetRow:
    keys = folder / "keys"
    keys.mkdir()
    authority = Authority.found(keys, "fedlag bench", VALID_FOR)
    names = [f"device-{index:05}" for index in range(num_devices)]
    broker = MosquittoBroker(folder / "broker", authority.certificate, authority.sign_server("broker", "127.0.0.1"))

    def address(identity: Identity) -> BrokerAddress:
        return BrokerAddress(broker.host, broker.port, authority.certificate, *identity)

    orders = []
    for start in range(0, num_devices, DEVICES_PER_PROCESS):
        order = CrowdOrder(
            fleet=FLEET,
            brokers={name: address(authority.sign_client(name)) for name in names[start : start + DEVICES_PER_PROCESS]},
            sizes=SIZES,
            ledger=folder / f"ledger-{start}.json",
        )
        (folder / f"devices-{start}.json").write_bytes(msgspec.json.encode(order, enc_hook=str))
        orders.append((folder / f"devices-{start}.json", order.ledger))
    config = folder / "aggregator.toml"
    config.write_text(_configuration(address(authority.sign_client(AGGREGATOR)), num_devices, num_rounds))
    broker.start()
    try:
        async with AsyncExitStack() as stack:
            crowds = [
                await stack.enter_async_context(
                    run_process(path.stem, [str(path)], folder, module="simulations.bench.crowd")
                )
                for path, _ in orders
            ]
            arguments = ["aggregator", "run", str(config), "--format", "json", "--quiet"]
            server = await stack.enter_async_context(run_process(AGGREGATOR, arguments, folder))
            watched = await _watch(server, crowds)
    finally:
        broker.stop()
    ledgers: dict[str, DeviceLedger] = {}
    for _, path in orders:
        ledgers |= msgspec.json.decode(path.read_bytes(), type=CrowdLedger).devices
    return _row(folder / "store", ledgers, num_rounds, watched)


async def _watch(server: Process, crowds: list[Process]) -> _Watched:
    """Return what the aggregator needed, when it has ended.

    Raises:
        FleetError: If it fails, or a process of devices ends before it.
    """
    watched = _Watched()
    started_s = time.monotonic()
    ends = [asyncio.create_task(it.finished()) for it in (server, *crowds)]
    try:
        while not ends[0].done():
            watched.look_at(server.pid)
            done, _ = await asyncio.wait(ends, timeout=SAMPLE_S, return_when=asyncio.FIRST_COMPLETED)
            for end in done:
                end.result()
            if done and ends[0] not in done:
                raise FleetError("devices ended before their aggregator")
    finally:
        for end in ends:
            end.cancel()
    watched.wall_s = time.monotonic() - started_s
    return watched


class _Watched:
    """What one process needed, as far as it was seen alive."""

    def __init__(self) -> None:
        self.rss_mb = self.cpu_s = self.wall_s = 0.0

    def look_at(self, pid: int) -> None:
        with suppress(OSError, KeyError):  # it may end meanwhile
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
            status = dict(line.split(":", 1) for line in lines)
            self.rss_mb = int(status["VmHWM"].split()[0]) * 1024 / MEGABYTE
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            self.cpu_s = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _row(store: Path, ledgers: dict[str, DeviceLedger], num_rounds: int, watched: _Watched) -> FleetRow:
    with closing(FleetStore(store)) as kept:
        reports, receipts = kept.reports(), kept.receipts()
    acknowledged, durable = (np.array(delays) for delays in delays_ms(ledgers))
    return FleetRow(
        devices=len(ledgers),
        rounds=num_rounds,
        upload_mb=_upload_mb(),
        lost=count_lost(ledgers, receipts),
        ready_s=watched.wall_s - sum(report.duration_s for report in reports),
        round_s=statistics.median(report.duration_s for report in reports[:num_rounds]),
        ack_p50_ms=float(np.percentile(acknowledged, 50)),
        ack_p99_ms=float(np.percentile(acknowledged, 99)),
        durable_p50_ms=float(np.percentile(durable, 50)),
        durable_p99_ms=float(np.percentile(durable, 99)),
        aggregator_rss_mb=watched.rss_mb,
        aggregator_cpu_s=watched.cpu_s,
    )


def _configuration(broker: BrokerAddress, num_devices: int, num_rounds: int) -> str:
    fields = {name: str(value) for name, value in msgspec.structs.asdict(broker).items()}
    return CONFIGURATION.format(fleet=FLEET, num_devices=num_devices, num_rounds=num_rounds, **fields)
