"""``fedlag-swap``: a layer becomes personal once the devices have confirmed, twice, that their own one is better.

Conflict shows where devices disagree, not whether they would be better off apart; so the question itself is measured.
At the start of a test round a device holds the layers that it trained in the round before, and their fresh averages. It
swaps its own version of one shared layer into the averages, layer after layer, and reports by how much the loss on its
validation data falls: the gain. Round by round, counted from 1::

    rounds 6, 9, 12, ...        test rounds: of the averages of round 5, then of every third round;
                                the last average that is tested is that of round num_rounds - 4
    m, se                       mean of a candidate's gains over the devices, and its standard error (ddof = 1)
    passed                      m > 0 and m > 1.5 se
    confirmed                   passed at this test and at the one before, with the same layers personal
    the next plan               of the confirmed layers the one with the largest (m now + m before) / 2 / sqrt(num_params)
                                is personal; all votes start again

Candidates are the shared layers. If there are more than 8, those that wait for a second test come first, then those
with the highest conflict score. A test by fewer than two devices decides nothing: it leaves the votes as they are.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, ClassVar

import msgspec
import numpy as np

from aggregator.evidence import (
    Decision,
    Evidence,
    LayerSelector,
    SelectorState,
    SwapState,
    in_model_order,
    measure_conflicts,
)

if TYPE_CHECKING:
    from jaxtyping import Float64

__all__ = ["FedlagSwap", "SwapTest", "judge_swap"]

FIRST_TESTED_ROUND = 5
ROUNDS_BETWEEN_TESTS = 3
LAST_ROUNDS_UNTESTED = 4
STANDARD_ERRORS_TO_PASS = 1.5
MAX_CANDIDATES = 8
FEWEST_TESTERS = 2


class SwapTest(msgspec.Struct, frozen=True):
    """The outcome of one candidate's test.

    Args:
        mean: Of the devices' gains, in units of the loss.
        standard_error: Of that mean, at least 0.
        num_better: Devices whose own layer was better.
        num_devices: Devices that tested, at least 2.
    """

    mean: float
    standard_error: float
    num_better: int
    num_devices: int

    @property
    def has_passed(self) -> bool:
        """Whether the devices' own layers are better beyond doubt."""
        return self.mean > 0 and self.mean > STANDARD_ERRORS_TO_PASS * self.standard_error

    def __str__(self) -> str:
        """Return the outcome as the beginning of a sentence."""
        devices = f"{self.num_better} of {self.num_devices} devices do better with their own"
        return f"{devices}, mean gain {self.mean:.4g} (standard error {self.standard_error:.2g})"


def judge_swap(gains: Float64[np.ndarray, " testers"]) -> SwapTest | None:
    """Return the outcome of one candidate's test.

    Args:
        gains: One gain per device that tested, shape ``(testers,)``, in units of the loss; a gain that is not finite is
            left out.

    Returns:
        None if fewer than two devices gave a finite gain.

    Example:
        >>> judge_swap(np.array([1.0, 3.0, 2.0, 6.0]))
        SwapTest(mean=3.0, standard_error=1.0801234497346435, num_better=4, num_devices=4)
    """
    finite = gains[np.isfinite(gains)]
    if len(finite) < FEWEST_TESTERS:
        return None
    standard_error = float(np.std(finite, ddof=1)) / math.sqrt(len(finite))
    return SwapTest(float(np.mean(finite)), standard_error, int(np.count_nonzero(finite > 0)), len(finite))


class FedlagSwap(LayerSelector, frozen=True, kw_only=True):
    """At most one layer a test becomes personal, after two tests in a row; none ever does where sharing is better."""

    name: ClassVar[str] = "fedlag-swap"

    def start(self, layer_sizes: Mapping[str, int]) -> tuple[SelectorState, Decision]:
        """Return a state without votes, and the decision for round 1: only pinned layers are personal.

        Raises:
            ConfigError: If a pinned layer is unknown.
        """
        decision = self.first_decision(layer_sizes)
        return SwapState(decision.personal_layers), decision

    def decide(self, state: SelectorState, evidence: Evidence) -> tuple[SelectorState, Decision]:
        """Return the next state, and the decision for the next round.

        Raises:
            FleetError: If the state is another selector's.
        """
        if not isinstance(state, SwapState):
            raise self.foreign_state(state)
        shared_layers = [layer for layer in evidence.num_params if layer not in state.personal_layers]
        tested = in_model_order(evidence.swap_gains, shared_layers)
        tests = {layer: judge_swap(evidence.swap_gains[layer]) for layer in tested}
        chosen = _choose(tests, state.passed, evidence.num_params)
        personal_layers, passed = state.personal_layers, _votes(tests, state.passed)
        if chosen is not None:
            personal_layers, passed = in_model_order({*personal_layers, chosen}, evidence.num_params), {}
        found = measure_conflicts(evidence)
        scores = state.scores | {layer: found[layer].conflict_score for layer in found}
        after = SwapState(personal_layers, passed, scores)
        candidates = _candidates(after, evidence.num_params) if self._is_tested(evidence.round_number) else ()
        reasons = _reasons(tests, chosen, evidence.round_number + 1)
        return after, Decision(personal_layers, candidates, reasons)

    def _is_tested(self, round_number: int) -> bool:
        """Return whether the averages of this round are tested at the start of the next one."""
        if self.num_rounds is not None and round_number > self.num_rounds - LAST_ROUNDS_UNTESTED:
            return False
        rounds_since_first = round_number - FIRST_TESTED_ROUND
        return rounds_since_first >= 0 and rounds_since_first % ROUNDS_BETWEEN_TESTS == 0


def _choose(
    tests: Mapping[str, SwapTest | None], passed: Mapping[str, float], num_params: Mapping[str, int]
) -> str | None:
    """Return the confirmed layer that gains the most for its size; of equals the earlier one in the model."""
    merits = {
        layer: (test.mean + passed[layer]) / 2 / math.sqrt(num_params[layer])
        for layer, test in tests.items()
        if test is not None and test.has_passed and layer in passed
    }
    return max(merits, key=merits.__getitem__, default=None)


def _votes(tests: Mapping[str, SwapTest | None], passed: Mapping[str, float]) -> dict[str, float]:
    """Return the mean gains of the layers that have passed their last decided test."""
    undecided = {layer: gain for layer, gain in passed.items() if tests.get(layer) is None}
    return undecided | {layer: test.mean for layer, test in tests.items() if test is not None and test.has_passed}


def _candidates(state: SwapState, model_layers: Collection[str]) -> tuple[str, ...]:
    """Return the shared layers, or the most promising of them, in the model's order."""
    shared_layers = [layer for layer in model_layers if layer not in state.personal_layers]
    by_promise = sorted(shared_layers, key=lambda layer: (layer not in state.passed, -state.scores.get(layer, 0.0)))
    return in_model_order(by_promise[:MAX_CANDIDATES], model_layers)


def _reasons(tests: Mapping[str, SwapTest | None], chosen: str | None, next_round: int) -> dict[str, str]:
    """Return one line for every layer that was tested."""
    reasons = {}
    for layer, test in tests.items():
        if test is None:
            reasons[layer] = f"fewer than {FEWEST_TESTERS} devices tested it: nothing is decided"
        elif layer == chosen:
            reasons[layer] = f"{test}: confirmed, personal from round {next_round} on"
        elif not test.has_passed:
            reasons[layer] = f"{test}: not enough, it stays shared"
        elif chosen is not None:
            reasons[layer] = f"{test}: passed, but {chosen} goes first and all votes start again"
        else:
            reasons[layer] = f"{test}: passed, the next test must confirm it"
    return reasons
