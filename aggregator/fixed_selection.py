"""The selectors that need no evidence: the baselines against which every choice of layers is measured."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, ClassVar

from msgspec import Meta

from aggregator.evidence import Decision, Evidence, FixedState, LayerSelector, SelectorState
from wire.errors import ConfigError

__all__ = ["FedAvg", "FedPer", "FixedSelector", "Local"]


class FixedSelector(LayerSelector, frozen=True, kw_only=True):
    """Chooses once, from the model alone, and keeps to it."""

    def choose(self, layer_sizes: Mapping[str, int]) -> Collection[str]:  # noqa: ARG002 - any model shares all
        """Return the layers that are personal besides the pinned ones: none, unless a subclass knows better."""
        return ()

    def start(self, layer_sizes: Mapping[str, int]) -> tuple[SelectorState, Decision]:
        """Return the choice, which is the state, and the decision for round 1."""
        decision = self.first_decision(layer_sizes, self.choose(layer_sizes))
        return FixedState(decision.personal_layers), decision

    def decide(self, state: SelectorState, evidence: Evidence) -> tuple[SelectorState, Decision]:  # noqa: ARG002 - none
        """Return the same choice again, whatever the evidence."""
        if not isinstance(state, FixedState):
            raise self.foreign_state(state)
        return state, Decision(state.personal_layers)


class FedAvg(FixedSelector, frozen=True, kw_only=True):
    """Every layer is shared. B. McMahan et al., AISTATS 2017."""

    name: ClassVar[str] = "fedavg"


class Local(FixedSelector, frozen=True, kw_only=True):
    """Every layer is personal: each device trains alone."""

    name: ClassVar[str] = "local"

    def choose(self, layer_sizes: Mapping[str, int]) -> Collection[str]:
        """Return all layers."""
        return layer_sizes


class FedPer(FixedSelector, frozen=True, kw_only=True):
    """The last layers are personal. M. Arivazhagan et al., "Federated Learning with Personalization Layers", 2019.

    Args:
        num_personal: How many of the model's last layers.
    """

    name: ClassVar[str] = "fedper"

    num_personal: Annotated[int, Meta(ge=1)] = 1

    def choose(self, layer_sizes: Mapping[str, int]) -> Collection[str]:
        """Return the last layers.

        Raises:
            ConfigError: If the model has too few.
        """
        if self.num_personal > len(layer_sizes):
            raise ConfigError(f"num_personal = {self.num_personal}, but the model has {len(layer_sizes)} layers")
        return list(layer_sizes)[-self.num_personal :]
