"""What the figures say, in sentences that are true whatever the figures are."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from simulations.demo.results import LOCAL_ARM, ArmResult, DemoResult, share_below_local
from simulations.demo.wording import percent, printable

__all__ = ["REFERENCE_ARM", "findings"]

REFERENCE_ARM = "fedavg"
"""The arm that shares every layer: what others send is compared with it."""


def findings(results: DemoResult) -> list[str]:
    """Return what can be said of one comparison, from its figures alone, and what cannot."""
    caveat = (
        f"All of this is from one seed ({results.seed}): it cannot say whether a difference between arms is more than "
        "noise. The same comparison with several seeds can."
    )
    sentences = [
        _best(results, "On average over the devices", lambda arm: arm.mean_test_accuracy),
        _best(results, "For the device that fares worst", lambda arm: arm.worst_test_accuracy),
        *_below_alone(results),
        *_bytes(results),
        caveat,
    ]
    return [printable(sentence) for sentence in sentences]


def _best(results: DemoResult, subject: str, figure: Callable[[ArmResult], float]) -> str:
    """Name the arms with the highest figure, as it is printed, and the next below."""
    by_figure: dict[str, list[str]] = {}
    for name, arm in sorted(results.arms.items(), key=lambda item: -figure(item[1])):
        by_figure.setdefault(percent(figure(arm)), []).append(name)
    (best, names), *rest = by_figure.items()
    sentence = f"{subject}, test accuracy is highest in {_listed(names)}: {best}"
    if not rest:
        return f"{subject}, test accuracy is {best} in {_listed(names)}."
    return f"{sentence}; then comes {_listed(rest[0][1])} with {rest[0][0]}."


def _below_alone(results: DemoResult) -> list[str]:
    """Say for how many devices each arm was worse than training alone."""
    counts = {}
    for name, arm in results.arms.items():
        share = share_below_local(results, name)
        if name != LOCAL_ARM and share is not None:
            counts[name] = f"{round(share * len(arm.devices))} of {len(arm.devices)} devices in {name}"
    if not counts:
        return []
    return [f"Training alone would have served better: {_listed(counts.values())}."]


def _bytes(results: DemoResult) -> list[str]:
    """Compare what devices sent with the arm that shares every layer."""
    reference = results.arms.get(REFERENCE_ARM)
    if reference is None or not reference.bytes_up_per_device:
        return []
    shares = [
        f"{arm.bytes_up_per_device / reference.bytes_up_per_device:.0%} in {name}"
        for name, arm in results.arms.items()
        if name not in {REFERENCE_ARM, LOCAL_ARM}
    ]
    return [f"Of what a device sent in {REFERENCE_ARM}, it sent {_listed(shares)}."] if shares else []


def _listed(names: Iterable[str]) -> str:
    """Return names as a person lists them."""
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last
