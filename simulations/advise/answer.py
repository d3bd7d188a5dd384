"""The whole answer: figures and sentences, for the terminal and for other programs."""

from __future__ import annotations

from typing import Any

import msgspec
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from simulations.advise.advice import DEFAULT_RULE, Advice, MethodAdvice
from simulations.advise.result import TrialResult
from simulations.advise.sentences import (
    expectation_sentences,
    in_bytes,
    in_points,
    layer_sentences,
    verdict_sentences,
    warning_sentences,
)
from simulations.demo.wording import percent, printable

__all__ = ["Answer", "answer_json", "answer_table", "make_answer"]

COLUMNS = ("accuracy", "worst\n10%", "harmed", "to\ndefault", "up", "down", "rate")

LEGEND = f"""\
>: advised; accuracy: mean over devices, each on its own test examples; worst 10%: of the worst tenth of them; harmed: \
devices that do better alone; to default: points against {DEFAULT_RULE}, ± one standard error; up, down: bytes of a device \
in a round; rate: learning rate, chosen on validation data, ? if the smallest or largest tried"""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What is shown and written.

    Args:
        advice: The decision.
        verdict: Which rule, and how sure.
        layers: Which layers conflict, and which became personal.
        expectation: What the fleet should come to.
        warnings: What weakens the advice.
        result: All that the trial found.
    """

    advice: Advice
    verdict: list[str]
    layers: list[str]
    expectation: list[str]
    warnings: list[str]
    result: TrialResult

    def paragraphs(self) -> list[tuple[str, list[str]]]:
        """Return the sentences under their headings, without those that have nothing to say."""
        headed = [
            ("Which rule", self.verdict),
            ("Which layers", self.layers),
            ("What to expect", self.expectation),
            ("Be careful", self.warnings),
        ]
        return [(heading, sentences) for heading, sentences in headed if sentences]


def make_answer(result: TrialResult, advice: Advice) -> Answer:
    """Put the advice into sentences."""
    return Answer(
        advice=advice,
        verdict=verdict_sentences(advice),
        layers=layer_sentences(advice),
        expectation=expectation_sentences(advice),
        warnings=warning_sentences(result, advice),
        result=result,
    )


def answer_table(answer: Answer) -> Table:
    """Return one row for each method, the advised one marked."""
    result, advice = answer.result, answer.advice
    title = (
        f"{printable(result.data)}: {advice.num_devices} devices, {result.num_rounds} rounds, "
        f"{advice.num_seeds} seed{'s' * (advice.num_seeds > 1)}"
    )
    table = Table(
        title=title, title_justify="left", caption=LEGEND, caption_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    table.add_column("method", no_wrap=True)
    for column in COLUMNS:
        table.add_column(column, justify="right", no_wrap=True)
    for it in advice.methods:
        mark = "> " if it.method == advice.rule else "  "
        table.add_row(Text(mark + it.method), *_row(it))
    return table


def answer_json(answer: Answer) -> bytes:
    """Encode for other programs, indented; a difference is ``[mean, standard error]``."""
    tree: dict[str, Any] = msgspec.to_builtins(answer, str_keys=True)
    return msgspec.json.format(msgspec.json.encode(tree), indent=2) + b"\n"


def _row(it: MethodAdvice) -> list[str]:
    return [
        percent(it.accuracy),
        percent(it.worst_decile),
        percent(it.harmed),
        "" if it.to_default is None else in_points(it.to_default).removesuffix(" points"),
        in_bytes(it.bytes_up),
        in_bytes(it.bytes_down),
        f"{it.learning_rate:g}" + ("?" if it.is_rate_at_edge else ""),
    ]
