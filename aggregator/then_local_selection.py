"""``fedavg-then-local``: the fleet learns together for some rounds, then each device goes on alone.

Rounds count from 1::

    rounds 1 .. num_shared_rounds        every layer is shared
    from round num_shared_rounds + 1 on  every layer is personal

It is a strong control: a shared start, then fine-tuning. With ``num_shared_rounds = num_rounds - 3`` it is FedAvg with
three rounds of fine-tuning; with half of the rounds, the default, it is what the code that was published with T. Nguyen
et al., arXiv:2410.02845, 2024, does after its warm-up (not what the paper says, for which see
``aggregator.paper_selection``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

from msgspec import Meta

from aggregator.evidence import Decision, Evidence, FixedState, LayerSelector, SelectorState, in_model_order
from wire.errors import ConfigError

__all__ = ["FedAvgThenLocal"]


class FedAvgThenLocal(LayerSelector, frozen=True, kw_only=True):
    """No layer is personal at first but the pinned ones; then all are, for good.

    Args:
        num_shared_rounds: Rounds in which the layers are shared, at least 1 and fewer than ``num_rounds``; None is half
            of the rounds.
    """

    name: ClassVar[str] = "fedavg-then-local"

    num_shared_rounds: Annotated[int, Meta(ge=1)] | None = None

    @property
    def needs_evidence(self) -> bool:
        """Never: only the number of the round counts."""
        return False

    def start(self, layer_sizes: Mapping[str, int]) -> tuple[SelectorState, Decision]:
        """Return the pinned layers, which are the state, and the decision for round 1.

        Raises:
            ConfigError: If a pinned layer is unknown, a fleet without an end does not say how many rounds are shared, or
                no round would be left to train alone.
        """
        num_shared_rounds = self._last_shared_round()
        if self.num_rounds is not None and num_shared_rounds >= self.num_rounds:
            raise ConfigError(
                f"num_shared_rounds = {num_shared_rounds} leaves none of {self.num_rounds} rounds to train alone"
            )
        decision = self.first_decision(layer_sizes)
        return FixedState(decision.personal_layers), decision

    def decide(self, state: SelectorState, evidence: Evidence) -> tuple[SelectorState, Decision]:
        """Return the next state, and the decision for the next round; what is personal stays so.

        Raises:
            FleetError: If the state is another selector's.
        """
        if not isinstance(state, FixedState):
            raise self.foreign_state(state)
        before, all_layers = state.personal_layers, tuple(evidence.num_params)
        if before == all_layers or evidence.round_number < self._last_shared_round():
            return state, Decision(before)
        because = f"personal from round {evidence.round_number + 1} on: each device trains alone now"
        reasons = dict.fromkeys(in_model_order(set(all_layers) - set(before), all_layers), because)
        return FixedState(all_layers), Decision(all_layers, reasons=reasons)

    def _last_shared_round(self) -> int:
        """Return the number of shared rounds."""
        if self.num_shared_rounds is not None:
            return self.num_shared_rounds
        if self.num_rounds is None:
            raise ConfigError(f"a fleet without an end needs the option num_shared_rounds of selector {self.name}")
        return max(1, self.num_rounds // 2)
