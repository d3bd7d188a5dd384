"""The same comparison with several seeds: what one seed cannot say, whether a difference is more than noise."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Annotated

import msgspec
from msgspec import Meta

from simulations.demo.results import DemoResult, Estimate, share_below_local
from wire.errors import DataError

__all__ = ["ArmSummary", "SeedSummary", "summarize_seeds", "summary_to_json"]


class ArmSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One arm over several seeds.

    Args:
        mean_test_accuracy: Over seeds, of the mean over devices.
        worst_test_accuracy: Over seeds, of the worst device.
        share_below_local: Over seeds, of the share of devices below training alone; None without that arm.
        bytes_up_per_device: Over seeds.
        bytes_down_per_device: Over seeds.
        num_seeds_personal: Layer -> number of seeds in which it ended personal, in the model's order.
    """

    mean_test_accuracy: Estimate
    worst_test_accuracy: Estimate
    share_below_local: Estimate | None
    bytes_up_per_device: Estimate
    bytes_down_per_device: Estimate
    num_seeds_personal: dict[str, Annotated[int, Meta(ge=0)]]


class SeedSummary(msgspec.Struct, frozen=True, kw_only=True):
    """The same comparison with several seeds.

    Args:
        seeds: Each once, in the order in which they ran.
        arms: Name -> summary, in the order of the first seed's result.
    """

    seeds: tuple[int, ...]
    arms: dict[str, ArmSummary]


def summarize_seeds(results: Sequence[DemoResult]) -> SeedSummary:
    """Summarize the same comparison over several seeds.

    Args:
        results: One per seed, all with the same arms.

    Returns:
        Means and standard errors over seeds, arm by arm.

    Raises:
        DataError: If there are no results, a seed comes twice, or the arms differ between seeds.
    """
    seeds = tuple(result.seed for result in results)
    if not results or len(set(seeds)) < len(seeds):
        raise DataError(f"a summary needs one result per seed, each seed once; these came: {seeds}")
    if any(result.arms.keys() != results[0].arms.keys() for result in results):
        raise DataError("a summary needs the same arms with every seed; run the missing ones")
    return SeedSummary(seeds=seeds, arms={name: _summarize_arm(results, name) for name in results[0].arms})


def _summarize_arm(results: Sequence[DemoResult], name: str) -> ArmSummary:
    """Summarize one arm over seeds."""
    arms = [result.arms[name] for result in results]
    shares = [share for result in results if (share := share_below_local(result, name)) is not None]
    return ArmSummary(
        mean_test_accuracy=_estimate([arm.mean_test_accuracy for arm in arms]),
        worst_test_accuracy=_estimate([arm.worst_test_accuracy for arm in arms]),
        share_below_local=_estimate(shares) if shares else None,
        bytes_up_per_device=_estimate([arm.bytes_up_per_device for arm in arms]),
        bytes_down_per_device=_estimate([arm.bytes_down_per_device for arm in arms]),
        num_seeds_personal={layer: sum(layer in arm.personal_layers for arm in arms) for layer in results[0].layers},
    )


def _estimate(values: Sequence[float]) -> Estimate:
    """Return mean and standard error.

    Example:
        >>> _estimate([1.0, 3.0])
        Estimate(mean=2.0, standard_error=1.0)
        >>> _estimate([1.0]).standard_error is None
        True
    """
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    return Estimate(statistics.fmean(values), error)


def summary_to_json(summary: SeedSummary) -> bytes:
    """Encode for other programs, indented; an estimate is ``[mean, standard error or null]``."""
    return msgspec.json.format(msgspec.json.encode(summary), indent=2) + b"\n"
