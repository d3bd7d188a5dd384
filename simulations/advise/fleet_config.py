"""The fleet's configuration, as the advice would have it: an ``aggregator.toml`` whose comments say why."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from simulations.advise.advice import DEFAULT_RULE, Advice
from simulations.advise.result import TrialResult
from simulations.demo.wording import printable

__all__ = ["fleet_config"]

WIDTH = 100
QUORUM = 0.8
SMALLEST_QUORUM = 2

HINTS = {
    DEFAULT_RULE: (
        'statistic = "median"    # against devices that lie about their gains',
        "loss_tolerance = 0.01   # to save bytes: a layer may cost so much validation loss, in nats",
    ),
    "fedlag-paper": ('schedule = "every_round" # choose anew in every round, instead of once, half-way',),
}
"""Options that a reader may want next, commented out."""


def fleet_config(result: TrialResult, advice: Advice, verdict: Sequence[str], warnings: Sequence[str]) -> str:
    """Return the text of ``aggregator.toml``, a valid ``aggregator.config.AggregatorConfig``.

    Args:
        result: Of the trial.
        advice: Made from it.
        verdict: In sentences; they stand at the top.
        warnings: Likewise, below.
    """
    num_devices = len(result.num_train)
    return "\n".join(
        [
            *_comment([f"Written by `fedlag advise {result.model} {result.data}`, {_size(result)}."]),
            *_comment(verdict),
            *_comment(f"Be careful: {warning}." for warning in warnings),
            "# docs/configuration.md explains every option.",
            "",
            'fleet = "home"            # its name: a-z, 0-9 and -; the devices name the same one',
            f'program = "program"       # as `fedlag export {printable(result.model)} --output program` writes it, beside this file',
            'folder = "aggregator"     # where the aggregator keeps its store, beside this file',
            "",
            "[broker]",
            'host = "127.0.0.1"',
            "port = 1883",
            "",
            "[selector]",
            f"name = {_toml(advice.rule)}",
            "",
            "[selector.options]",
            *(f"{name} = {_toml(value)}" for name, value in advice.options.items()),
            *(f"# {hint}" for hint in HINTS.get(advice.rule, ())),
            "",
            "[rounds]",
            f"num_rounds = {result.num_rounds}           # as many as were tried; leave it out to go on without an end",
            f"cohort_size = {num_devices}          # all devices of the trial are asked in every round, as they were there",
            f"quorum = {_quorum(num_devices)}               # a round goes on without a fifth of them",
            "",
            "[training]",
            f"learning_rate = {_toml(advice.learning_rate)}     # the best for {advice.rule} on validation data, of those tried",
            "",
        ]
    )


def _size(result: TrialResult) -> str:
    seeds = f"{result.num_seeds} seed{'s' * (result.num_seeds > 1)}"
    return f"from {len(result.num_train)} devices, {result.num_rounds} rounds, {seeds}"


def _quorum(num_devices: int) -> int:
    return min(num_devices, max(SMALLEST_QUORUM, math.ceil(QUORUM * num_devices)))


def _comment(sentences: Iterable[str]) -> Iterator[str]:
    """Yield sentences as comments, without a letter that could end one."""
    for sentence in sentences:
        line = "#"
        for word in printable(sentence).split():
            if len(line) + len(word) >= WIDTH and line != "#":
                yield line
                line = "#  "
            line += f" {word}"
        yield line


def _toml(value: Any) -> str:
    """Return a value as TOML; a string, number or list of JSON is one of TOML, too."""
    return json.dumps(value)
