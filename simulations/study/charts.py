"""The pictures of a study's report. A method has its own line in every picture, so nothing hangs on colors alone."""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup

from simulations.demo.report_charts import conflict_by_layer
from simulations.demo.results import ArmResult, Estimate, RoundResult
from simulations.demo.wording import megabytes, percent, shorten
from simulations.study.outcome import CellOutcome
from simulations.study.summary import ScenarioSummary, StudySummary
from simulations.study.tables import points, regret_of, with_error
from simulations.svg import Picture, Scale, even_ticks

__all__ = ["accuracy_chart", "bytes_chart", "conflict_chart", "local_chart", "regret_chart"]

WIDTH, RIGHT = 400.0, 392.0
HEAD, ROW, FOOT = 4.0, 19.0, 36.0
LETTER = 6.4
MAX_LABEL = 24
OURS, GOOD, BAD, QUIET = 0, 3, 5, 1
"""Styles: a result, better than alone, worse than alone, a detail."""


def accuracy_chart(scenario: ScenarioSummary) -> Markup:
    """Draw each method's mean test accuracy, with a bar of one standard error over seeds to either side."""
    rows = [(row.method, row.accuracy) for row in scenario.methods if row.accuracy is not None]
    told = "; ".join(f"{method} {with_error(accuracy)}" for method, accuracy in rows)
    spans = [_span(accuracy) for _, accuracy in rows]
    low = math.floor(max(0.0, min(it[0] for it in spans) - 0.01) * 20) / 20
    high = min(1.0, math.ceil((max(it[1] for it in spans) + 0.01) * 20) / 20)
    picture, scale = _rows(f"Test accuracy on {scenario.scenario}: {told}.", [name for name, _ in rows], (low, high))
    _axis(picture, scale, len(rows), "mean test accuracy", "{:.0%}")
    for place, (method, accuracy) in enumerate(rows):
        y = _middle(place)
        left, right = (scale(it) for it in spans[place])
        _whisker(picture, left, right, y)
        picture.marker((scale(accuracy.mean), y), OURS, title=f"{method}: {with_error(accuracy)}")
    return picture.markup()


def local_chart(scenario: ScenarioSummary) -> Markup | None:
    """Draw what each client gains over training alone, a mark a client; None where nobody trained alone."""
    rows = [(row.method, row.over_local) for row in scenario.methods if any(row.over_local.values())]
    if not rows:
        return None
    gains = [gain for _, over in rows for gain in over.values()]
    told = "; ".join(
        f"{method}: {sum(gain < 0 for gain in over.values())} of {len(over)} clients below" for method, over in rows
    )
    limits = (min(-0.01, *gains), max(0.01, *gains))
    picture, scale = _rows(f"Gain over training alone. {told}.", [name for name, _ in rows], limits)
    _axis(picture, scale, len(rows), "accuracy minus the client's own alone, in points", "{:.0f}", 100)
    picture.line((scale(0), HEAD), (scale(0), HEAD + ROW * len(rows)), "zero")
    for place, (method, over) in enumerate(rows):
        for client, gain in over.items():
            title = f"{client}, {method}: {100 * gain:+.1f} points"
            picture.marker((scale(gain), _middle(place)), BAD if gain < 0 else GOOD, title=title)
    return picture.markup()


def bytes_chart(scenario: ScenarioSummary) -> Markup | None:
    """Draw accuracy against what a client sends; methods at one place share a label. None without accuracies."""
    rows = [(row.method, row.bytes_up, row.accuracy.mean) for row in scenario.methods if row.accuracy is not None]
    if not rows:
        return None
    told = "; ".join(f"{method} {megabytes(size)}, {percent(accuracy)}" for method, size, accuracy in rows)
    head, bottom, left = 12.0, 236.0, 48.0
    picture = Picture(f"Accuracy against bytes: {told}.", WIDTH, bottom + 38)
    most = max(1.0, *(size for _, size, _ in rows))
    accuracies = [accuracy for _, _, accuracy in rows]
    across = Scale(0, most / 1e6, left + 8, RIGHT - 12)
    up = Scale(min(accuracies) - 0.015, max(accuracies) + 0.015, bottom, head)
    for tick in even_ticks(up.low, up.high):
        picture.line((left, up(tick)), (RIGHT, up(tick)), "grid")
        picture.text((left - 7, up(tick) + 4), f"{tick:.1%}", "tick", anchor="end")
    for tick in even_ticks(0, most / 1e6):
        picture.text((across(tick), bottom + 16), f"{tick:g}", "tick", anchor="middle")
    picture.text(((left + RIGHT) / 2, bottom + 34), "MB sent by a client in all rounds", "tick", anchor="middle")
    taken: list[tuple[float, float, float]] = []
    for method, size, accuracy in sorted(rows, key=lambda row: -row[2]):
        place = (across(size / 1e6), up(accuracy))
        picture.marker(place, OURS, title=f"{method}: {megabytes(size)}, {percent(accuracy)}")
        _label(picture, place, shorten(method, MAX_LABEL), taken)
    return picture.markup()


def regret_chart(summary: StudySummary) -> Markup | None:
    """Draw how far each method is from the best fixed choice, a mark a scenario, the mean as a bar; None without any."""
    regrets: dict[str, dict[str, Estimate]] = {}
    for scenario in summary.scenarios:
        for row in scenario.methods:
            if (regret := regret_of(row)) is not None:
                regrets.setdefault(row.method, {})[scenario.scenario] = regret
    if not regrets:
        return None
    means = {method: sum(it.mean for it in by.values()) / len(by) for method, by in regrets.items()}
    told = "; ".join(
        f"{method} {100 * means[method]:.1f} on average, {100 * max(it.mean for it in by.values()):.1f} at worst"
        for method, by in regrets.items()
    )
    values = [it.mean for by in regrets.values() for it in by.values()]
    limits = (min(-0.005, *values), max(0.01, *values))
    picture, scale = _rows(f"Regret in points: {told}.", list(regrets), limits)
    _axis(picture, scale, len(regrets), "points below the best fixed choice", "{:.0f}", 100)
    picture.line((scale(0), HEAD), (scale(0), HEAD + ROW * len(regrets)), "zero")
    for place, (method, by) in enumerate(regrets.items()):
        y = _middle(place)
        if len(by) > 1:
            begin, end = sorted((scale(0), scale(means[method])))
            picture.rect((begin, y - 4, max(1.0, end - begin), 8), "mean", title=f"mean {100 * means[method]:.1f}")
        for name, regret in by.items():
            title = f"{method}, {name}: {points(regret, signed=False)}"
            picture.marker((scale(regret.mean), y), OURS, title=title)
    return picture.markup()


def conflict_chart(method: str, outcome: CellOutcome, top: float) -> Markup:
    """Draw one cell's conflict by layer and round.

    Args:
        method: What the study calls its method.
        outcome: Has rounds, at least one.
        top: The share of pairs that is drawn in full color.
    """
    rounds = tuple(
        RoundResult(
            round_number=it.round_number,
            personal_layers=it.personal_layers,
            conflict=it.conflict,
            mean_cosine={},
            validation_accuracy=it.validation_accuracy,
            validation_loss=it.validation_loss,
            num_counted=len(outcome.clients) - it.num_diverged,
        )
        for it in outcome.rounds
    )
    return conflict_by_layer(
        ArmResult(name=method, learning_rate=0.0, devices=(), rounds=rounds), list(outcome.layers), top
    )


def _span(estimate: Estimate) -> tuple[float, float]:
    error = estimate.standard_error or 0.0
    return estimate.mean - error, estimate.mean + error


def _rows(description: str, names: Sequence[str], limits: tuple[float, float]) -> tuple[Picture, Scale]:
    """Return a picture with a named line for each row, every second one shaded, and its scale across."""
    left = 14 + LETTER * max(min(len(name), MAX_LABEL) for name in names)
    picture = Picture(description, WIDTH, HEAD + ROW * len(names) + FOOT)
    for place, name in enumerate(names):
        if place % 2 == 0:
            picture.rect((0, HEAD + ROW * place, WIDTH, ROW), "band")
        picture.text((left - 6, _middle(place) + 4), shorten(name, MAX_LABEL), anchor="end")
    return picture, Scale(*limits, left + 6, RIGHT - 8)


def _axis(picture: Picture, scale: Scale, num_rows: int, name: str, form: str, factor: float = 1.0) -> None:
    bottom = HEAD + ROW * num_rows
    for tick in even_ticks(scale.low * factor, scale.high * factor):
        x = scale(tick / factor)
        picture.line((x, HEAD), (x, bottom), "grid")
        picture.text((x, bottom + 15), form.format(tick), "tick", anchor="middle")
    picture.text(((scale.start + scale.stop) / 2, bottom + 31), name, "tick", anchor="middle")


def _whisker(picture: Picture, left: float, right: float, y: float) -> None:
    if right - left > 1:
        picture.line((left, y), (right, y), "whisker")
        for x in (left, right):
            picture.line((x, y - 3.5), (x, y + 3.5), "whisker")


def _middle(place: int) -> float:
    return HEAD + ROW * (place + 0.5)


def _label(picture: Picture, place: tuple[float, float], name: str, taken: list[tuple[float, float, float]]) -> None:
    """Write a name beside its mark: on the side with room, lower where another name stands already."""
    x, y = place
    width = LETTER * len(name)
    goes_left = x + 9 + width > WIDTH
    begin = x - 9 - width if goes_left else x + 9
    while any(begin < stop and start < begin + width and abs(at - y) < 11.5 for start, stop, at in taken):  # noqa: PLR2004
        y += 2.0
    taken.append((begin, begin + width, y))
    picture.text((x - 9 if goes_left else x + 9, y + 4), name, anchor="end" if goes_left else "start")
