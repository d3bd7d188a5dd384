"""From an aggregator's round reports to an arm's result."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from aggregator.round_report import RoundReport
from simulations.demo.arms import Arm
from simulations.demo.results import ArmResult, DeviceResult, Estimate, RoundResult
from wire.errors import FleetError

__all__ = ["collect_arm"]


def collect_arm(arm: Arm, reports: Sequence[RoundReport]) -> ArmResult:
    """Return what an arm came to.

    The quality after a round is what the devices measure when they install its averages, at the start of the next: so
    the last report must be that of a measuring round.

    Raises:
        FleetError: If the arm did not come to its measuring round.
    """
    if len(reports) < 2:  # noqa: PLR2004 - one training round and the measuring round
        raise FleetError(f"arm {arm.name} closed {len(reports)} rounds, it needs a measuring round after the last")
    *trained, last = reports
    devices = []
    for device_id, figures in last.counted.items():
        if figures.test is None:
            raise FleetError(f"{device_id} of arm {arm.name} has no test split to report on")
        devices.append(
            DeviceResult(
                device_id=device_id,
                runtime=last.runtimes.get(device_id, ""),
                num_train=figures.num_examples,
                validation_accuracy=figures.before.accuracy,
                test_accuracy=figures.test.accuracy,
                bytes_up=figures.bytes_up,
                bytes_down=figures.bytes_down,
            )
        )
    rounds = tuple(_collect_round(report, after) for report, after in zip(trained, reports[1:], strict=True))
    return ArmResult(name=arm.name, learning_rate=arm.learning_rate, devices=tuple(devices), rounds=rounds)


def _collect_round(report: RoundReport, after: RoundReport) -> RoundResult:
    measured = [figures.before for figures in after.counted.values()]
    layers = sorted({*report.conflict_scores, *report.personal_layers})
    errors = report.swap_errors
    return RoundResult(
        round_number=report.round_number,
        personal_layers=report.personal_layers,
        conflict={name: report.conflict_scores.get(name) for name in layers},
        mean_cosine={name: report.mean_cosines.get(name) for name in layers},
        validation_accuracy=statistics.fmean(measurement.accuracy for measurement in measured),
        validation_loss=statistics.fmean(measurement.loss for measurement in measured),
        num_counted=len(report.counted),
        reasons=report.reasons,
        swap_gains={name: Estimate(mean, errors.get(name)) for name, mean in report.swap_gains.items()},
    )
