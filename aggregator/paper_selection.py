"""``fedlag-paper``: the layers with the most conflict become personal, as many as one asks for.

From T. Nguyen et al., arXiv:2410.02845, 2024. Two schedules::

    frozen       sum the conflict scores over warm-up rounds 1 .. W in which every layer is shared;
                 the num_personal layers with the largest sums are personal from round W + 1 on
    every_round  in every round the num_personal layers with the largest scores of the round before are personal

W is half of the rounds, at most 30, and 30 for a fleet without an end.

Differs from the paper: how a conflict is counted (``aggregator.conflict``), and with ``every_round`` the scores of
round ``r`` decide round ``r + 1``, since a device uploads once a round. A layer of which no sketch came keeps the score
that it had.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from msgspec import Meta
from msgspec.structs import replace

from aggregator.evidence import (
    Decision,
    Evidence,
    LayerSelector,
    MaliciousShare,
    PaperState,
    SelectorState,
    in_model_order,
    measure_conflicts,
)
from wire.errors import ConfigError

__all__ = ["FedlagPaper"]

MAX_WARMUP_ROUNDS = 30
COUNTED_DECIMALS = 9


class FedlagPaper(LayerSelector, frozen=True, kw_only=True):
    """The ``num_personal`` layers most in conflict are personal, however little they are.

    Args:
        num_personal: How many layers become personal, besides pinned ones.
        schedule: ``frozen`` decides once, after the warm-up; ``every_round`` anew in every round.
        num_warmup_rounds: W, for ``frozen``; None is the paper's.
        conflict_threshold: A pair conflicts if its cosine is below it, in ``[-1, 0]``; None is
            ``default_conflict_threshold`` of each layer.
        malicious_share: Of the devices, whose sketches may be lies; None believes all.
    """

    name: ClassVar[str] = "fedlag-paper"

    num_personal: Annotated[int, Meta(ge=1)] = 2
    schedule: Literal["frozen", "every_round"] = "frozen"
    num_warmup_rounds: Annotated[int, Meta(ge=1)] | None = None
    conflict_threshold: Annotated[float, Meta(ge=-1, le=0)] | None = None
    malicious_share: MaliciousShare | None = None

    @property
    def needs_personal_sketches(self) -> bool:
        """Whether a personal layer must be scored, too: only if it may be shared again."""
        return self.schedule == "every_round"

    @property
    def last_warmup_round(self) -> int:
        """W: the first round whose evidence may end the warm-up."""
        if self.num_warmup_rounds is not None:
            return self.num_warmup_rounds
        return MAX_WARMUP_ROUNDS if self.num_rounds is None else max(1, min(self.num_rounds // 2, MAX_WARMUP_ROUNDS))

    def start(self, layer_sizes: Mapping[str, int]) -> tuple[SelectorState, Decision]:
        """Return a state without scores, and the decision for round 1: only pinned layers are personal.

        Raises:
            ConfigError: If a pinned layer is unknown, or the model has too few others.
        """
        decision = self.first_decision(layer_sizes)
        num_others = len(layer_sizes) - len(decision.personal_layers)
        if self.num_personal > num_others:
            raise ConfigError(f"num_personal = {self.num_personal}, but only {num_others} layers are not pinned")
        return PaperState(decision.personal_layers), decision

    def decide(self, state: SelectorState, evidence: Evidence) -> tuple[SelectorState, Decision]:
        """Return the next state, and the decision for the next round.

        Raises:
            FleetError: If the state is another selector's.
        """
        if not isinstance(state, PaperState):
            raise self.foreign_state(state)
        if state.is_frozen:
            return state, Decision(state.personal_layers)
        found = measure_conflicts(evidence, self.conflict_threshold, self.malicious_share)
        if self.schedule == "every_round":
            before, is_due = dict.fromkeys(found, 0.0), True
        else:
            before, is_due = state.scores, evidence.round_number >= self.last_warmup_round
        scores = state.scores | {layer: before.get(layer, 0.0) + found[layer].conflict_score for layer in found}
        after = replace(state, scores=scores)
        if not (is_due and scores):
            return after, Decision(state.personal_layers)
        personal_layers = self._most_in_conflict(scores, evidence.num_params)
        decision = Decision(personal_layers, reasons=self._reasons(state, scores, personal_layers, evidence))
        return replace(after, personal_layers=personal_layers, is_frozen=self.schedule == "frozen"), decision

    def _most_in_conflict(self, scores: Mapping[str, float], layer_sizes: Mapping[str, int]) -> tuple[str, ...]:
        """Return the pinned layers and the top of the others; of equal scores the earlier layer of the model wins.

        Sums of shares of the same pairs, such as 1/10 + 2/10 and 0/10 + 3/10, differ by rounding alone: that is no lead.
        """
        others = [layer for layer in layer_sizes if layer not in self.pinned]
        ranked = sorted(others, key=lambda layer: -round(scores.get(layer, 0.0), COUNTED_DECIMALS))
        top = ranked[: self.num_personal]
        return in_model_order({*self.pinned, *top}, layer_sizes)

    def _reasons(
        self, state: PaperState, scores: Mapping[str, float], personal_layers: tuple[str, ...], evidence: Evidence
    ) -> dict[str, str]:
        """Return a line for every layer that becomes personal, or is shared again."""
        score = "conflict score" if self.schedule == "every_round" else "sum of conflict scores"
        top, next_round = f"among the {self.num_personal} highest", evidence.round_number + 1
        reasons = {}
        for layer in in_model_order(set(personal_layers) ^ set(state.personal_layers), evidence.num_params):
            verdict, place = ("personal", top) if layer in personal_layers else ("shared again", f"no longer {top}")
            reasons[layer] = (
                f"{verdict} from round {next_round} on: its {score}, {scores.get(layer, 0):.3f}, is {place}"
            )
        return reasons
