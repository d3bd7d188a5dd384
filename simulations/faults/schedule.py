"""From a seed to what happens when: kills, lost links, full disks, jumps of the clock, floods, a broker without memory."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from simulations.faults.spec import FaultSpec
from simulations.loopback.aggregator import LoopbackAggregator
from simulations.loopback.device import LoopbackDevice
from simulations.loopback.fleet import LoopbackFleet
from simulations.loopback.network import Faults

__all__ = ["disturb"]

Machine = LoopbackDevice | LoopbackAggregator

MEAN_GAP_S = 15.0
MEAN_PAUSE_S = 5.0
MOST_EFFECTS = 12
JUMP = 60.0
BURSTS, BURST = 5, 100


def disturb(fleet: LoopbackFleet, spec: FaultSpec, seed: int) -> None:
    """Plan a schedule of faults on a fleet; the same seed plans the same.

    Args:
        fleet: Turned on, at time 0.
        spec: How much of what.
        seed: Decides when, on which machine and how.
    """
    fleet.network.policy = Faults(
        seed, duplicated=spec.duplicated, delayed=spec.delayed, lost=spec.lost, damaged=spec.damaged
    )
    rng = np.random.default_rng([seed, 1])
    kinds: list[Callable[[LoopbackFleet, np.random.Generator, float], None]] = [
        *[_kill] * spec.kills,
        *[_cut] * spec.cuts,
        *[_jump] * spec.jumps,
        *[_fill_disk] * spec.full_disks,
        *[_restart_broker] * spec.broker_restarts,
        *[_flood] * spec.floods,
    ]
    times = np.cumsum(rng.exponential(MEAN_GAP_S, size=len(kinds))).tolist()
    for time_s, which in zip(times, rng.permutation(len(kinds)).tolist(), strict=True):
        kinds[which](fleet, rng, time_s)


def _machine(fleet: LoopbackFleet, rng: np.random.Generator) -> Machine:
    """Draw a machine; the aggregator is as likely as all devices together."""
    devices = list(fleet.devices.values())
    return fleet.aggregator if rng.random() < 0.5 else devices[int(rng.integers(len(devices)))]  # noqa: PLR2004 - a coin


def _kill(fleet: LoopbackFleet, rng: np.random.Generator, time_s: float) -> None:
    machine, pause_s = _machine(fleet, rng), float(rng.exponential(MEAN_PAUSE_S))
    if rng.random() < 0.5:  # noqa: PLR2004 - a coin
        fleet.network.at(time_s, machine.stop)
        fleet.network.at(time_s + pause_s, machine.start)
    else:
        fleet.network.at(time_s, partial(machine.cut_power_after, int(rng.integers(MOST_EFFECTS)), pause_s))


def _cut(fleet: LoopbackFleet, rng: np.random.Generator, time_s: float) -> None:
    machine = _machine(fleet, rng)
    fleet.network.at(time_s, machine.disconnect)
    fleet.network.at(time_s + float(rng.exponential(MEAN_PAUSE_S)), machine.connect)


def _jump(fleet: LoopbackFleet, rng: np.random.Generator, time_s: float) -> None:
    seconds = float(rng.exponential(JUMP))

    def jump() -> None:
        fleet.network.now_s += seconds

    fleet.network.at(time_s, jump)


def _fill_disk(fleet: LoopbackFleet, rng: np.random.Generator, time_s: float) -> None:
    machine = _machine(fleet, rng)
    fleet.network.at(time_s, partial(setattr, machine, "is_disk_full", True))
    fleet.network.at(time_s + float(rng.exponential(MEAN_PAUSE_S)), partial(setattr, machine, "is_disk_full", False))


def _restart_broker(fleet: LoopbackFleet, rng: np.random.Generator, time_s: float) -> None:
    fleet.network.at(time_s, fleet.network.forget)
    machines: list[Machine] = [*fleet.devices.values(), fleet.aggregator]
    for machine in machines:
        fleet.network.at(time_s + float(rng.exponential(MEAN_PAUSE_S)), machine.connect)


def _flood(fleet: LoopbackFleet, rng: np.random.Generator, time_s: float) -> None:
    devices = list(fleet.devices.values())
    device = devices[int(rng.integers(len(devices)))]
    for burst in range(BURSTS):
        fleet.network.at(time_s + burst, partial(device.flood, BURST))
