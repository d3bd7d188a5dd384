"""The advice in sentences: the verdict, the layers, what to expect, and what to be careful about."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence

from simulations.advise.advice import DEFAULT_RULE, LOCAL, Advice, LayerAdvice, MethodAdvice
from simulations.advise.pairing import Difference
from simulations.advise.result import TrialResult
from simulations.demo.wording import percent

__all__ = [
    "expectation_sentences",
    "in_bytes",
    "in_points",
    "layer_sentences",
    "verdict_sentences",
    "warning_sentences",
]

FEWEST_SWAP_ROUNDS = 12
FEW_EXAMPLES = 20
FEW_DEVICES = 8
STILL_RISING = 0.01
NOTICEABLE_SAVING = 0.8

PLAIN = {
    "fedavg": "share every layer",
    "local": "share nothing: every device trains alone",
    "fedper": "keep the last layer on the devices, share the others",
    "fedlag-swap": "share every layer that the devices do not find to be better as their own",
    "fedlag-paper": "keep the layers that are most in conflict on the devices, share the others",
}
"""What a rule does, in a few words."""


def verdict_sentences(advice: Advice) -> list[str]:
    """Return which rule to use, and how sure that is."""
    rule = advice.rule
    told = [f"Use {rule}: {PLAIN.get(rule, 'see docs/fedlag.md')}."]
    if rule != DEFAULT_RULE:
        difference = next((it.to_default for it in advice.methods if it.method == rule), None)
        if difference is None:
            told.append(f"{DEFAULT_RULE} came to no result here, so this is the best of the others.")
        else:
            told.append(f"It is clearly better here than the default, {DEFAULT_RULE}: {in_points(difference)}.")
    elif not advice.beaten:
        told.append("Nothing that was tried differs from it beyond noise, so this is the default, not a finding.")
    if advice.beaten:
        told.append(f"{_and(advice.beaten)} {_is(advice.beaten)} clearly worse.")
    if advice.rivals and (advice.beaten or rule != DEFAULT_RULE):
        told.append(f"{_and(advice.rivals)} cannot be told apart from it with these devices and seeds.")
    cheaper = _cheaper(advice)
    if cheaper:
        told.append(cheaper)
    return told


def layer_sentences(advice: Advice) -> list[str]:
    """Return where devices pull in opposite directions, and what became personal."""
    measured = sorted((it for it in advice.layers if it.conflict is not None), key=lambda it: -(it.conflict or 0.0))
    marked = [it for it in measured if it.is_in_conflict]
    told = []
    if marked:
        told.append(f"In conflict: {', '.join(map(_share, marked))} while everything is shared.")
    elif measured:
        told.append(f"No layer is in marked conflict; the most is {_share(measured[0])} while everything is shared.")
    kept = [it for it in advice.layers if it.num_seeds_personal]
    if advice.rule == LOCAL:
        return told
    if not kept:
        told.append(f"Under {advice.rule} no layer became personal: it did what fedavg does.")
    else:
        always = [it.layer for it in kept if it.num_seeds_personal == advice.num_seeds]
        names = always if len(always) == len(kept) else [_with_seeds(it, advice.num_seeds) for it in kept]
        told.append(f"Under {advice.rule} {_and(names)} ended personal: each device keeps its own.")
        if marked and not {it.layer for it in marked} & {it.layer for it in kept}:
            told.append(
                "These are not the layers most in conflict: conflict shows where devices disagree, the rule asks whether "
                "they are better off apart."
            )
    return told


def expectation_sentences(advice: Advice) -> list[str]:
    """Return what the fleet should come to."""
    expected = advice.expectation
    if expected is None:
        return ["The devices have no test examples, so no accuracy can be expected."]
    own = next(it for it in advice.methods if it.method == advice.rule)
    told = [
        f"After {expected.num_rounds} rounds devices are right in {percent(expected.accuracy)} of their own test examples.",
        f"Eight of ten devices lie between {percent(expected.low)} and {percent(expected.high)}.",
    ]
    if own.harmed is not None:
        told.append(f"{percent(own.harmed)} of the devices do worse than they would alone.")
    told.append(
        f"A device sends {in_bytes(expected.bytes_up)} and receives {in_bytes(expected.bytes_down)} a round on average, "
        "before compression."
    )
    return told


def warning_sentences(result: TrialResult, advice: Advice) -> list[str]:
    """Return what weakens the advice."""
    return list(_warnings(result, advice))


def in_points(difference: Difference) -> str:
    """Return a difference of accuracies in points of percent, with its standard error.

    Example:
        >>> in_points(Difference(0.0213, 0.005))
        '+2.1 ± 0.5 points'
    """
    return f"{100 * difference.mean:+.1f} ± {100 * difference.standard_error:.1f} points"


def in_bytes(num_bytes: float) -> str:
    """Return a number of bytes, in thousands or millions where there are as many.

    Example:
        >>> in_bytes(12_340_000), in_bytes(143_012), in_bytes(6_400), in_bytes(0)
        ('12.3 MB', '143 kB', '6.4 kB', '0 B')
    """
    for unit, size in (("MB", 1e6), ("kB", 1e3)):
        if num_bytes >= size:
            return f"{num_bytes / size:,.{0 if num_bytes >= 100 * size else 1}f} {unit}"
    return f"{num_bytes:.0f} B"


def _warnings(result: TrialResult, advice: Advice) -> Iterator[str]:
    yield from result.failures
    if result.num_rounds < FEWEST_SWAP_ROUNDS:
        yield (
            f"{result.num_rounds} rounds leave {DEFAULT_RULE} without a second test: it can only do what fedavg does; use "
            f"--rounds {FEWEST_SWAP_ROUNDS} or more"
        )
    validation = statistics.median(result.num_validation.values())
    if validation < FEW_EXAMPLES:
        yield (
            f"half of the devices have {validation:g} validation examples or fewer: {DEFAULT_RULE}'s tests and the choice of "
            "learning rates are noisy"
        )
    test = statistics.median(result.num_test.values())
    if test < FEW_EXAMPLES:
        yield f"half of the devices have {test:g} test examples or fewer: single devices' accuracies are rough"
    if advice.num_devices < FEW_DEVICES:
        yield f"with {advice.num_devices} devices the standard errors themselves are rough"
    if advice.num_devices < result.num_found:
        yield f"{advice.num_devices} of {result.num_found} devices were tried; with all of them averages may be better"
    if result.num_seeds == 1:
        yield "one seed says nothing about other initial values; use --seeds 2 or more"
    yield from _rate_warnings(advice)
    yield from _rising(result, advice.rule)
    if advice.rule != DEFAULT_RULE:
        yield "the rule was chosen on the test examples that its accuracy is told of, so that figure is a little flattering"


def _rate_warnings(advice: Advice) -> Iterator[str]:
    at_edge = [it.method for it in advice.methods if it.is_rate_at_edge]
    if at_edge:
        yield (
            f"for {_and(at_edge)} the best learning rate was the smallest or largest of those tried; a better one may lie "
            "beyond: widen --learning-rates"
        )


def _rising(result: TrialResult, rule: str) -> Iterator[str]:
    """Say if the chosen rule was still getting better in the last quarter of the rounds."""
    curve = next(it.validation for it in result.methods if it.method == rule)
    quarter = len(curve) // 4
    if quarter:
        gained = statistics.fmean(curve[-quarter:]) - statistics.fmean(curve[-2 * quarter : -quarter])
        if gained > STILL_RISING:
            yield f"{rule} gained {100 * gained:.1f} points in the last quarter of the rounds: try more --rounds"


def _cheaper(advice: Advice) -> str:
    """Name the method that sends least among those that cannot be told apart from the rule, if it saves much."""
    own = next(it for it in advice.methods if it.method == advice.rule)
    rivals = [it for it in advice.methods if it.method in advice.rivals and not _is_worse(it, own)]
    least = min(rivals, key=lambda it: it.bytes_up, default=None)
    if least is None or least.bytes_up > NOTICEABLE_SAVING * own.bytes_up:
        return ""
    saved = "sends nothing" if least.bytes_up == 0 else f"sends {least.bytes_up / own.bytes_up:.0%} of its bytes"
    return f"{least.method} {saved}, if bytes matter more to you than what noise may hide."


def _is_worse(it: MethodAdvice, own: MethodAdvice) -> bool:
    """Say whether a method's mean is a point below the rule's: noise may hide it, but nobody should bet on it."""
    return it.accuracy is None or own.accuracy is None or it.accuracy < own.accuracy - 0.01


def _share(layer: LayerAdvice) -> str:
    return f"{layer.layer} ({layer.conflict or 0.0:.0%} of the pairs of devices)"


def _with_seeds(layer: LayerAdvice, num_seeds: int) -> str:
    return f"{layer.layer} (in {layer.num_seeds_personal} of {num_seeds} seeds)"


def _is(names: Sequence[str]) -> str:
    return "are" if len(names) > 1 else "is"


def _and(names: Sequence[str]) -> str:
    """Return names as a sentence lists them."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
