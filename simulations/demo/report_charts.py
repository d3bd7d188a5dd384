"""The report's four pictures."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from markupsafe import Markup

from simulations.demo.results import ArmResult, DemoResult, RoundResult
from simulations.demo.wording import megabytes, percent, round_spans, shorten
from simulations.svg import NUM_ARM_STYLES, Picture, Scale, even_ticks

__all__ = [
    "MAX_COLUMNS",
    "MAX_ROWS",
    "accuracy_by_device",
    "accuracy_by_round",
    "bytes_by_arm",
    "conflict_by_layer",
    "conflict_scale",
    "shown_rounds",
]

WIDTH = 400.0
RIGHT = 392.0
LETTER = 6.4
"""Width of a letter, generously, in the page's font at the pictures' size."""

MAX_LABEL = 18
MAX_ROWS = 60
"""The most devices in one picture."""

MAX_COLUMNS = 120
"""The most rounds in one heat map; beyond, every second, third ... is shown."""


def conflict_scale(results: DemoResult) -> float:
    """Return the share of pairs that is drawn in full color in every heat map, a multiple of a quarter."""
    scores = [score for arm in results.arms.values() for part in arm.rounds for score in part.conflict.values()]
    top = max((score for score in scores if score is not None), default=0.0)
    return max(0.25, math.ceil(top * 4) / 4)


def shown_rounds(rounds: Sequence[RoundResult]) -> Sequence[RoundResult]:
    """Return the rounds that a heat map has room for, evenly apart, the first among them."""
    return rounds[:: max(1, math.ceil(len(rounds) / MAX_COLUMNS))]


def conflict_by_layer(arm: ArmResult, layers: Sequence[str], top: float) -> Markup:
    """Draw one arm's conflict: a row per layer, a column per round, deeper color for more conflict.

    A cell without a score is hatched; a frame stands around the rounds in which a layer was personal.

    Args:
        arm: Has rounds, at least one.
        layers: In the model's order, from input to output.
        top: The score in full color, from ``conflict_scale``.
    """
    rounds = shown_rounds(arm.rounds)
    row, head, foot = 22.0, 6.0, 34.0
    left = _label_width(layers)
    picture = Picture(_describe_conflict(arm, layers), WIDTH, head + row * len(layers) + foot)
    cell = (RIGHT - left) / len(rounds)
    for index, layer in enumerate(layers):
        y = head + row * index
        picture.text((left - 8, y + row / 2 + 4), shorten(layer, MAX_LABEL), anchor="end")
        for column, part in enumerate(rounds):
            score = part.conflict.get(layer)
            place = (left + cell * column, y + 1.5, cell, row - 3)
            title = _cell_title(layer, part)
            if score is None:
                picture.rect(place, "hatched", title=title)
            else:
                picture.rect(place, "heat", title=title, fill_opacity=min(1.0, score / top))
        for first, last in _runs([layer in part.personal_layers for part in rounds]):
            picture.rect((left + cell * first, y + 1.5, cell * (last - first + 1), row - 3), "personal", rx=3)
    bottom = head + row * len(layers)
    for tick in even_ticks(rounds[0].round_number, max(rounds[-1].round_number, rounds[0].round_number + 1)):
        beyond = sum(part.round_number < tick for part in rounds)
        if tick == int(tick) and beyond < len(rounds):
            picture.text((left + cell * (beyond + 0.5), bottom + 14), f"{tick:.0f}", "tick", anchor="middle")
    picture.text(((left + RIGHT) / 2, bottom + 30), "round", "tick", anchor="middle")
    return picture.markup()


def accuracy_by_device(results: DemoResult) -> Markup:
    """Draw each device's test accuracy in each arm, best devices first by their mean over arms.

    Of more than ``MAX_ROWS`` devices, those with the lowest means are drawn.
    """
    accuracies: dict[str, dict[int, float]] = {}
    for index, arm in enumerate(results.arms.values()):
        for device in arm.devices:
            accuracies.setdefault(device.device_id, {})[index] = device.test_accuracy
    means = {device_id: statistics.fmean(by_arm.values()) for device_id, by_arm in accuracies.items()}
    devices = sorted(means, key=lambda device_id: (-means[device_id], device_id))[-MAX_ROWS:]
    lane, num_arms = 4.6, len(results.arms)
    row, head = lane * num_arms + 5, 4.0
    bottom = head + row * len(devices)
    left = _label_width(devices)
    lowest = min(min(accuracies[device_id].values()) for device_id in devices)
    scale = Scale(_floor_tick(lowest), 1.0, left + 6, RIGHT - 8)
    picture = Picture(
        f"Test accuracy of {len(devices)} devices in {num_arms} arms, from {percent(lowest)} up; "
        "the table of devices below has the same figures.",
        WIDTH,
        bottom + 34,
    )
    for index in range(0, len(devices), 2):
        picture.rect((0, head + row * index, WIDTH, row), "band")
    _accuracy_axis(picture, scale, head, bottom)
    for index, device_id in enumerate(devices):
        y = head + row * index
        picture.text((left - 4, y + row / 2 + 4), shorten(device_id, MAX_LABEL), anchor="end")
        for number, name in enumerate(results.arms):
            if (accuracy := accuracies[device_id].get(number)) is not None:
                title = f"{device_id}, {name}: {percent(accuracy)}"
                picture.marker((scale(accuracy), y + 2.5 + lane * (number + 0.5)), number, title=title)
    return picture.markup()


def accuracy_by_round(results: DemoResult) -> Markup:
    """Draw the mean validation accuracy after each round; a level line for an arm without rounds."""
    head, bottom, left = 8.0, 236.0, 48.0
    series = {name: _validation_series(arm, results.num_rounds) for name, arm in results.arms.items()}
    values = [value for points in series.values() for _, value, _ in points]
    last = max(2, *(number for points in series.values() for number, _, _ in points))
    across = Scale(1, last, left, RIGHT - 8)
    up = Scale(_floor_tick(min(values)), 1.0, bottom, head)
    ends = ", ".join(f"{name} {percent(points[-1][1])}" for name, points in series.items())
    picture = Picture(f"Mean validation accuracy over {last} rounds. At the end: {ends}.", WIDTH, bottom + 38)
    for tick in even_ticks(up.low, up.high):
        picture.line((left, up(tick)), (RIGHT, up(tick)), "grid")
        picture.text((left - 7, up(tick) + 4), f"{tick:.0%}", "tick", anchor="end")
    for tick in even_ticks(1, last):
        if tick == int(tick):
            picture.text((across(tick), bottom + 16), f"{tick:.0f}", "tick", anchor="middle")
    picture.text(((left + RIGHT) / 2, bottom + 34), "round", "tick", anchor="middle")
    for index, points in enumerate(series.values()):
        placed = [(across(number), up(value)) for number, value, _ in points]
        picture.path(placed, f"curve arm-{index % NUM_ARM_STYLES}")
        stride = max(1, round(len(points) / 6))
        for place, (_, _, title) in list(zip(placed, points, strict=True))[::-1][::stride]:
            picture.marker(place, index, title=title)
    return picture.markup()


def bytes_by_arm(results: DemoResult, reference: str) -> Markup:
    """Draw what a device published in each arm, beside the arm ``reference`` if it is there."""
    sizes = {name: arm.bytes_up_per_device for name, arm in results.arms.items()}
    whole = sizes.get(reference, 0.0)
    notes = {
        name: megabytes(size) + (f", {size / whole:.0%} of {reference}" if whole and name != reference else "")
        for name, size in sizes.items()
    }
    described = "; ".join(f"{name} {note}" for name, note in notes.items())
    row = 46.0
    picture = Picture(f"Sent up per device: {described}.", WIDTH, row * len(sizes) + 4)
    scale = Scale(0, max(*sizes.values(), 1.0), 0, WIDTH)
    for index, (name, size) in enumerate(sizes.items()):
        y = row * index
        picture.marker((6, y + 14), index)
        picture.text((17, y + 18), shorten(name, MAX_LABEL))
        picture.text((WIDTH, y + 18), notes[name], "tick", anchor="end")
        picture.rect((0, y + 26, WIDTH, 10), "track", rx=2)
        picture.rect((0, y + 26, scale(size), 10), f"bar arm-{index % NUM_ARM_STYLES}", rx=2)
    return picture.markup()


def _cell_title(layer: str, part: RoundResult) -> str:
    score, cosine = part.conflict.get(layer), part.mean_cosine.get(layer)
    conflict = "no score" if score is None else f"{percent(score)} of pairs in conflict"
    return f"{layer}, round {part.round_number}: {conflict}" + ("" if cosine is None else f", mean cosine {cosine:.2f}")


def _validation_series(arm: ArmResult, num_rounds: int) -> list[tuple[int, float, str]]:
    """Return round, accuracy and what to say of it."""
    if not arm.rounds:
        level = statistics.fmean(device.validation_accuracy for device in arm.devices)
        return [(number, level, f"{arm.name}: {percent(level)} at the end") for number in (1, num_rounds)]
    return [(part.round_number, part.validation_accuracy, _round_title(arm.name, part)) for part in arm.rounds]


def _round_title(arm: str, part: RoundResult) -> str:
    loss = "no finite loss" if part.validation_loss is None else f"loss {part.validation_loss:.3f}"
    accuracy = percent(part.validation_accuracy)
    return f"{arm}, round {part.round_number}: {accuracy}, {loss}, {part.num_counted} devices counted"


def _accuracy_axis(picture: Picture, scale: Scale, head: float, bottom: float) -> None:
    for tick in even_ticks(scale.low, scale.high):
        picture.line((scale(tick), head), (scale(tick), bottom), "grid")
        picture.text((scale(tick), bottom + 15), f"{tick:.0%}", "tick", anchor="middle")
    picture.text(((scale.start + scale.stop) / 2, bottom + 31), "test accuracy", "tick", anchor="middle")


def _describe_conflict(arm: ArmResult, layers: Sequence[str]) -> str:
    parts = []
    for layer in layers:
        scores = [score for part in arm.rounds if (score := part.conflict.get(layer)) is not None]
        mean = f"{percent(statistics.fmean(scores))} of pairs on average" if scores else "no score"
        personal = round_spans(part.round_number for part in arm.rounds if layer in part.personal_layers)
        parts.append(f"{layer} {mean}" + (f", personal in rounds {personal}" if personal else ""))
    return f"Conflict in {arm.name}: {'; '.join(parts)}."


def _floor_tick(lowest: float) -> float:
    """Return where an accuracy axis begins: a multiple of 5 percent below all values, at most 95 percent."""
    return max(0.0, min(0.95, math.floor(lowest * 20 - 0.2) / 20))


def _label_width(labels: Sequence[str]) -> float:
    return 14 + LETTER * max((min(len(label), MAX_LABEL) for label in labels), default=0)


def _runs(flags: Sequence[bool]) -> list[tuple[int, int]]:
    """Return the first and last index of each run of true flags."""
    starts = [i for i, flag in enumerate(flags) if flag and (i == 0 or not flags[i - 1])]
    stops = [i for i, flag in enumerate(flags) if flag and (i + 1 == len(flags) or not flags[i + 1])]
    return list(zip(starts, stops, strict=True))
