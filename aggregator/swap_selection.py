"""``fedlag-swap``: a layer becomes personal once the devices have confirmed, twice, that their own one is better.

Conflict shows where devices disagree, not whether they would be better off apart; so the question itself is measured.
At the start of a test round a device holds the layers that it trained in the round before, and their fresh averages. It
swaps its own version of one shared layer into the averages, layer after layer, and reports by how much the loss on its
validation data falls: the gain. With the default options, round by round, counted from 1::

    rounds 6, 9, 12, ...        test rounds: of the averages of round 5, then of every third round;
                                the last average that is tested is that of round num_rounds - 4
    m, se                       mean of a candidate's gains over the devices, and its standard error (ddof = 1)
    passed                      m > 0 and m > 1.5 se
    confirmed                   passed at this test and at the one before, with the same layers personal
    the next plan               of the confirmed layers the one with the largest (m now + m before) / 2 / sqrt(num_params)
                                is personal; all votes start again

Candidates are the shared layers. If there are more than 8, those that wait for a second test come first, then those
with the highest conflict score. A test by fewer than two devices decides nothing: it leaves the votes as they are.

With a ``loss_tolerance`` the rule also saves bytes. A layer is tolerable if 1.5 se - m is at most the tolerance. Where no
layer is confirmed, and none that has passed waits to be, the largest layer that was tolerable at this test and at the
one before becomes personal; all votes start again. Each layer may cost that much, so several may cost several times it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Annotated, ClassVar

from msgspec import UNSET, Meta

from aggregator.evidence import (
    Decision,
    Evidence,
    LayerSelector,
    MaliciousShare,
    SelectorState,
    SwapState,
    in_model_order,
    measure_conflicts,
)
from aggregator.swap_test import FEWEST_TESTERS, STANDARD_ERRORS_TO_PASS, Statistic, SwapTest, judge_swap

__all__ = ["FedlagSwap"]

LAST_ROUNDS_UNTESTED = 4

Tests = Mapping[str, SwapTest | None]


class FedlagSwap(LayerSelector, frozen=True, kw_only=True):
    """At most one layer a test becomes personal, after two tests in a row; none ever does where sharing is better.

    Args:
        first_tested_round: The first round whose averages are tested, at the start of the next one.
        rounds_between_tests: From one tested round to the next, at least 1.
        standard_errors: By how many a gain must be above 0 to pass, at least 0.
        max_candidates: The most layers that are tested at one time.
        statistic: How the devices' gains are summed up (``aggregator.swap_test``); against devices that lie, ``median``
            or ``trimmed-mean``. None is ``trimmed-mean`` with a ``malicious_share``, ``mean`` without.
        loss_tolerance: By how much a layer may raise the validation loss to save its bytes, in units of the loss (nats,
            for a cross-entropy), at least 0; None is not at all, not even where it costs nothing.
        malicious_share: Of the devices, whose gains and sketches may be lies; a trimmed mean leaves out as many at each end, and
            conflict scores, too. None believes the sketches, and trims a fifth.
    """

    name: ClassVar[str] = "fedlag-swap"

    first_tested_round: Annotated[int, Meta(ge=1)] = 5
    rounds_between_tests: Annotated[int, Meta(ge=1)] = 3
    standard_errors: Annotated[float, Meta(ge=0)] = STANDARD_ERRORS_TO_PASS
    max_candidates: Annotated[int, Meta(ge=1)] = 8
    statistic: Statistic | None = None
    loss_tolerance: Annotated[float, Meta(ge=0)] | None = None
    malicious_share: MaliciousShare | None = None

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
        tests = {layer: self._judge(evidence, layer) for layer in tested}
        passed, tolerated = self._passed(tests, state.passed), self._tolerated(tests, state.tolerated or ())
        confirmed = self._confirmed(tests, state.passed, evidence.num_params)
        cheap = None if confirmed or passed else _largest_tolerated(tests, state, tolerated, evidence.num_params)
        personal_layers, chosen = state.personal_layers, confirmed or cheap
        if chosen is not None:
            personal_layers = in_model_order({*personal_layers, chosen}, evidence.num_params)
            passed, tolerated = {}, ()
        found = measure_conflicts(evidence, malicious_share=self.malicious_share)
        scores = state.scores | {layer: found[layer].conflict_score for layer in found}
        after = SwapState(personal_layers, passed, scores, tolerated or UNSET)
        candidates = self._candidates(after, evidence.num_params) if self._is_tested(evidence.round_number) else ()
        reasons = self._reasons(tests, chosen, tolerated, evidence.round_number + 1)
        return after, Decision(personal_layers, candidates, reasons)

    def _judge(self, evidence: Evidence, layer: str) -> SwapTest | None:
        """Return the outcome of a candidate's test; as many gains may be lies as devices were counted, not only testers."""
        if self.malicious_share is None:
            return judge_swap(evidence.swap_gains[layer], self.statistic or "mean")
        num_malicious = int(self.malicious_share * evidence.num_devices)
        return judge_swap(evidence.swap_gains[layer], self.statistic or "trimmed-mean", num_malicious)

    def _is_tested(self, round_number: int) -> bool:
        """Return whether the averages of this round are tested at the start of the next one."""
        if self.num_rounds is not None and round_number > self.num_rounds - LAST_ROUNDS_UNTESTED:
            return False
        rounds_since_first = round_number - self.first_tested_round
        return rounds_since_first >= 0 and rounds_since_first % self.rounds_between_tests == 0

    def _passed(self, tests: Tests, before: Mapping[str, float]) -> dict[str, float]:
        """Return the gains of the layers that have passed their last decided test."""
        undecided = {layer: gain for layer, gain in before.items() if tests.get(layer) is None}
        return undecided | {
            layer: test.gain
            for layer, test in tests.items()
            if test is not None and test.has_passed(self.standard_errors)
        }

    def _tolerated(self, tests: Tests, before: Collection[str]) -> tuple[str, ...]:
        """Return the layers that were tolerable at their last decided test; those that passed are among them."""
        if self.loss_tolerance is None:
            return ()
        undecided = tuple(layer for layer in before if tests.get(layer) is None)
        return undecided + tuple(
            layer
            for layer, test in tests.items()
            if test is not None and test.is_tolerable(self.loss_tolerance, self.standard_errors)
        )

    def _confirmed(self, tests: Tests, before: Mapping[str, float], num_params: Mapping[str, int]) -> str | None:
        """Return the confirmed layer that gains the most for its size; of equals the earlier one in the model."""
        merits = {
            layer: (test.gain + before[layer]) / 2 / math.sqrt(num_params[layer])
            for layer, test in tests.items()
            if test is not None and test.has_passed(self.standard_errors) and layer in before
        }
        return max(merits, key=merits.__getitem__, default=None)

    def _candidates(self, state: SwapState, model_layers: Collection[str]) -> tuple[str, ...]:
        """Return the shared layers, or the most promising of them, in the model's order."""
        tolerated = state.tolerated or ()
        shared_layers = [layer for layer in model_layers if layer not in state.personal_layers]
        by_promise = sorted(
            shared_layers,
            key=lambda layer: (layer not in state.passed, layer not in tolerated, -state.scores.get(layer, 0.0)),
        )
        return in_model_order(by_promise[: self.max_candidates], model_layers)

    def _reasons(self, tests: Tests, chosen: str | None, tolerated: Collection[str], next_round: int) -> dict[str, str]:
        """Return one line for every layer that was tested."""
        tolerance = f"costs at most {self.loss_tolerance:g}" if self.loss_tolerance is not None else ""
        reasons = {}
        for layer, test in tests.items():
            if test is None:
                reasons[layer] = f"fewer than {FEWEST_TESTERS} devices tested it: nothing is decided"
                continue
            has_passed = test.has_passed(self.standard_errors)
            if layer == chosen and has_passed:
                verdict = f"confirmed, personal from round {next_round} on"
            elif layer == chosen:
                verdict = f"{tolerance}, twice, and saves the most bytes: personal from round {next_round} on"
            elif has_passed and chosen is not None:
                verdict = f"passed, but {chosen} goes first and all votes start again"
            elif has_passed:
                verdict = "passed, the next test must confirm it"
            elif layer in tolerated:
                verdict = f"{tolerance}, the next test must confirm it; it stays shared"
            else:
                verdict = "not enough, it stays shared"
            reasons[layer] = f"{test}: {verdict}"
        return reasons


def _largest_tolerated(
    tests: Tests, before: SwapState, now: Collection[str], num_params: Mapping[str, int]
) -> str | None:
    """Return the largest layer that this test and the one before found tolerable; of equals the earlier one."""
    twice = [
        layer for layer in tests if tests[layer] is not None and layer in now and layer in (before.tolerated or ())
    ]
    return max(twice, key=num_params.__getitem__, default=None)
