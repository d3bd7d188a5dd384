"""One comparison as one HTML file: nothing it shows comes from elsewhere, and it sends nothing anywhere.

The page forbids itself every request by its own content security policy. Whatever stands in the results is escaped:
device ids, layers and reasons come from other machines.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import jinja2
from markupsafe import Markup

from simulations.demo.report_charts import (
    MAX_COLUMNS,
    MAX_ROWS,
    accuracy_by_device,
    accuracy_by_round,
    bytes_by_arm,
    conflict_by_layer,
    conflict_scale,
)
from simulations.demo.report_sentences import REFERENCE_ARM, findings
from simulations.demo.results import LOCAL_ARM, ArmResult, DemoResult
from simulations.demo.wording import (
    ARM_DESCRIPTIONS,
    below_alone,
    megabytes,
    percent,
    personal_at_end,
    printable,
    round_spans,
)
from simulations.svg import marker
from wire.errors import StoreError

__all__ = ["ArmView", "DeviceView", "PersonalView", "render_report", "write_report"]


class ArmView(NamedTuple):
    """An arm as the page shows it."""

    name: str
    description: str
    marker: Markup
    mean: str
    worst: str
    below_alone: str
    up: str
    down: str
    learning_rate: str
    personal: str


class PersonalView(NamedTuple):
    """A layer that was personal for some time in one arm."""

    arm: str
    layer: str
    num_params: str
    rounds: str
    reason: str
    gain: str


class DeviceView(NamedTuple):
    """A device's row: one accuracy per arm, n/a where it took no part."""

    device_id: str
    runtime: str
    num_train: int
    accuracies: tuple[str, ...]


def write_report(results: DemoResult, path: Path) -> None:
    """Write one comparison as one HTML file.

    Args:
        results: The comparison.
        path: The file, replaced if it exists; its folder exists.

    Raises:
        StoreError: If the disk refuses.
    """
    try:
        path.write_text(render_report(results), encoding="utf-8")
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror}") from error


def render_report(results: DemoResult) -> str:
    """Return the page."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["printable"] = printable
    top = conflict_scale(results)
    layers = tuple(results.layers)
    return environment.get_template("report.html").render(
        results=results,
        num_devices=len({device.device_id for arm in results.arms.values() for device in arm.devices}),
        findings=findings(results),
        arms=[_arm_view(results, name, index) for index, name in enumerate(results.arms)],
        heat_maps={
            name: conflict_by_layer(arm, layers, top) for name, arm in results.arms.items() if _has_conflict(arm)
        },
        heat_top=f"{top:.0%}",
        max_columns=MAX_COLUMNS,
        max_rows=MAX_ROWS,
        by_device=accuracy_by_device(results),
        by_round=accuracy_by_round(results),
        level_arms=[printable(name) for name, arm in results.arms.items() if not arm.rounds],
        by_bytes=bytes_by_arm(results, REFERENCE_ARM),
        personal=[view for name, arm in results.arms.items() if name != LOCAL_ARM for view in _personal(results, arm)],
        devices=_device_views(results),
    )


def _arm_view(results: DemoResult, name: str, index: int) -> ArmView:
    arm = results.arms[name]
    return ArmView(
        name=printable(name),
        description=ARM_DESCRIPTIONS.get(name, ""),
        marker=marker(index),
        mean=percent(arm.mean_test_accuracy),
        worst=percent(arm.worst_test_accuracy),
        below_alone=below_alone(results, name),
        up=megabytes(arm.bytes_up_per_device),
        down=megabytes(arm.bytes_down_per_device),
        learning_rate=f"{arm.learning_rate:g}",
        personal=personal_at_end(results, name),
    )


def _has_conflict(arm: ArmResult) -> bool:
    return any(score is not None for part in arm.rounds for score in part.conflict.values())


def _personal(results: DemoResult, arm: ArmResult) -> list[PersonalView]:
    """Return the layers that were ever personal, in the model's order, each with why it first became so.

    A decision holds from the round after it, so the reason stands with the round before the first personal one.
    """
    views = []
    for layer, num_params in results.layers.items():
        personal = [index for index, part in enumerate(arm.rounds) if layer in part.personal_layers]
        if personal:
            decided = arm.rounds[max(0, personal[0] - 1)]
            reason = decided.reasons.get(layer) or arm.rounds[personal[0]].reasons.get(layer)
            gain = decided.swap_gains.get(layer)
            views.append(
                PersonalView(
                    arm=printable(arm.name),
                    layer=printable(layer),
                    num_params=f"{num_params:,}",
                    rounds=round_spans(arm.rounds[index].round_number for index in personal),
                    reason=printable(reason or "no reason was recorded"),
                    gain="" if gain is None else f"{gain.mean:+.3f}" + _error(gain.standard_error),
                )
            )
    return views


def _error(standard_error: float | None) -> str:
    return "" if standard_error is None else f" ± {standard_error:.3f}"


def _device_views(results: DemoResult) -> list[DeviceView]:
    """Return every device of any arm, in the order in which the arms name them."""
    by_arm = [{device.device_id: device for device in arm.devices} for arm in results.arms.values()]
    known = {device_id: device for arm in reversed(by_arm) for device_id, device in arm.items()}
    return [
        DeviceView(
            device_id=printable(device_id),
            runtime=printable(known[device_id].runtime),
            num_train=known[device_id].num_train,
            accuracies=tuple(percent(arm[device_id].test_accuracy if device_id in arm else None) for arm in by_arm),
        )
        for device_id in known
    ]
