"""A whole fleet in one process: the product's own state machines over a loopback network, in simulated time.

``aggregator.fleet.Fleet`` and ``edge_client.session.Session`` run as they are; what the shells ``aggregator.server`` and
``edge_client.agent`` do with MQTT, disk and clock is done in memory here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from aggregator.config import AggregatorConfig
from aggregator.round_report import RoundReport
from edge_client.aggregator_key import AggregatorKey
from edge_client.dataset import Dataset
from edge_client.program import TrainingProgram
from simulations.loopback.aggregator import LoopbackAggregator
from simulations.loopback.device import LoopbackDevice
from simulations.loopback.network import Loopback, Policy, deliver_once
from wire.errors import FleetError

__all__ = ["SIGNING_KEY", "LoopbackFleet"]

LONGEST_S = 24 * 3600.0
TRAIN_S = 1.0

SIGNING_KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
"""Of every fleet in a simulation: it guards nothing, and two runs are the same to the byte."""


class LoopbackFleet:
    """An aggregator and its devices, all turned on.

    Args:
        config: The aggregator's configuration, as in production; its paths and its broker are not used.
        program: Trains on all devices.
        initial: Layer -> initial values, float32, shape ``(num_params,)``.
        datasets: Device -> its data.
        policy: What becomes of messages on their way.
        train_s: How long a round's training takes on a device.
        is_signed: Plans are signed, and devices take no others.
    """

    def __init__(
        self,
        config: AggregatorConfig,
        program: TrainingProgram,
        initial: Mapping[str, np.ndarray],
        datasets: Mapping[str, Dataset],
        *,
        policy: Policy = deliver_once,
        train_s: float = TRAIN_S,
        is_signed: bool = True,
    ) -> None:
        """Turn everything on; time stands still until ``run``."""
        self.config = config
        self.network = Loopback(policy)
        key = SIGNING_KEY if is_signed else None
        check_signature = AggregatorKey(key.public_key()).check if key else None
        self.aggregator = LoopbackAggregator(self.network, config, program.manifest, initial, key)
        self.devices = {
            name: LoopbackDevice(self.network, config.fleet, name, program, data, train_s, check_signature)
            for name, data in datasets.items()
        }
        self.aggregator.start()
        for device in self.devices.values():
            device.start()

    def run(self, num_rounds: int = 1) -> list[RoundReport]:
        """Let time pass until so many more rounds have closed; return their reports.

        Raises:
            FleetError: If that takes longer than a day of simulated time.
        """
        before = len(self.aggregator.reports)
        self.run_until(lambda: len(self.aggregator.reports) >= before + num_rounds)
        return self.aggregator.reports[before:]

    def run_until(self, is_reached: Callable[[], bool], longest_s: float = LONGEST_S) -> None:
        """Let time pass until something is true.

        Raises:
            FleetError: If it is not after ``longest_s`` of simulated time.
        """
        end_s = self.network.now_s + longest_s
        while not is_reached():
            if self.network.now_s > end_s:
                raise FleetError(
                    f"still waiting after {longest_s:.0f} s in round {self.aggregator.state.plan.round_number}"
                )
            self.network.step()

    def run_for(self, duration_s: float) -> None:
        """Let so much time pass."""
        end_s = self.network.now_s + duration_s
        self.run_until(lambda: self.network.now_s >= end_s, duration_s + 1.0)  # ticks come every second
