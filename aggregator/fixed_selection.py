"""The selectors that need no evidence: the baselines against which every choice of layers is measured.

Their sources: ``fedavg`` B. McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data",
AISTATS 2017; ``fedper`` M. Arivazhagan et al., "Federated Learning with Personalization Layers", arXiv:1912.00818, 2019;
``lg-fedavg`` P. P. Liang et al., "Think Locally, Act Globally: Federated Learning with Local and Global
Representations", arXiv:2001.01523, 2020; ``fixed`` with the norm layers X. Li et al., "FedBN: Federated Learning on
Non-IID Features via Local Batch Normalization", ICLR 2021. ``random`` is the control for every rule that chooses: as
many layers, without looking.

Differs from the papers: ``lg-fedavg`` begins at the common initial values, and its devices do not vote on new data;
``fixed`` knows no kinds of layers, so that the norm layers are named one by one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, ClassVar

from msgspec import Meta

from aggregator.evidence import Decision, Evidence, FixedState, LayerSelector, SelectorState
from wire.errors import ConfigError
from wire.random import key_from_label, sample_without_replacement

__all__ = ["FedAvg", "FedPer", "Fixed", "FixedSelector", "LgFedAvg", "Local", "RandomLayers"]

NumLayers = Annotated[int, Meta(ge=1)]


class FixedSelector(LayerSelector, frozen=True, kw_only=True):
    """Chooses once, from the model alone, and keeps to it."""

    @property
    def needs_evidence(self) -> bool:
        """Never."""
        return False

    @property
    def is_fixed(self) -> bool:
        """Always."""
        return True

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
    """Every layer is shared."""

    name: ClassVar[str] = "fedavg"


class Local(FixedSelector, frozen=True, kw_only=True):
    """Every layer is personal: each device trains alone."""

    name: ClassVar[str] = "local"

    def choose(self, layer_sizes: Mapping[str, int]) -> Collection[str]:
        """Return all layers."""
        return layer_sizes


class Fixed(FixedSelector, frozen=True, kw_only=True):
    """The named layers are personal: any choice that one has made beforehand.

    Args:
        layers: Their names, in any order; none is ``fedavg``.
    """

    name: ClassVar[str] = "fixed"

    layers: tuple[str, ...] = ()

    def choose(self, layer_sizes: Mapping[str, int]) -> Collection[str]:
        """Return the named layers.

        Raises:
            ConfigError: If the model has no layer of such a name.
        """
        for layer in self.layers:
            if layer not in layer_sizes:
                raise ConfigError(f"layer {layer!r} is not in the model; it has {', '.join(layer_sizes)}")
        return self.layers


class FedPer(FixedSelector, frozen=True, kw_only=True):
    """The last layers are personal.

    Args:
        num_personal: How many of the model's last layers.
    """

    name: ClassVar[str] = "fedper"

    num_personal: NumLayers = 1

    def choose(self, layer_sizes: Mapping[str, int]) -> Collection[str]:
        """Return the last layers.

        Raises:
            ConfigError: If the model has too few.
        """
        _refuse_more_than(list(layer_sizes), self.num_personal)
        return list(layer_sizes)[-self.num_personal :]


class LgFedAvg(FixedSelector, frozen=True, kw_only=True):
    """The first layers are personal: local representations under a shared head.

    Args:
        num_personal: How many of the model's first layers.
    """

    name: ClassVar[str] = "lg-fedavg"

    num_personal: NumLayers = 1

    def choose(self, layer_sizes: Mapping[str, int]) -> Collection[str]:
        """Return the first layers.

        Raises:
            ConfigError: If the model has too few.
        """
        _refuse_more_than(list(layer_sizes), self.num_personal)
        return list(layer_sizes)[: self.num_personal]


class RandomLayers(FixedSelector, frozen=True, kw_only=True):
    """Some layers are personal, drawn once: each choice of so many layers is as likely as any other.

    The draw is ``sample_without_replacement`` of ``wire.random`` under the label ``layers/<seed>``, over the layers that
    are not pinned, in the model's order.

    Args:
        num_personal: How many layers, besides pinned ones.
        seed: Of the draw, at least 0; it has nothing to do with that of the rounds.
    """

    name: ClassVar[str] = "random"

    num_personal: NumLayers = 2
    seed: Annotated[int, Meta(ge=0, le=2**53)] = 0

    def choose(self, layer_sizes: Mapping[str, int]) -> Collection[str]:
        """Return the drawn layers.

        Raises:
            ConfigError: If the model has too few that are not pinned.
        """
        others = [layer for layer in layer_sizes if layer not in self.pinned]
        _refuse_more_than(others, self.num_personal, "that are not pinned")
        drawn = sample_without_replacement(key_from_label(f"layers/{self.seed}"), len(others), self.num_personal)
        return [others[index] for index in drawn]


def _refuse_more_than(layers: Collection[str], num_personal: int, which: str = "") -> None:
    """Refuse to choose more layers than there are."""
    if num_personal > len(layers):
        raise ConfigError(f"num_personal = {num_personal}, but the model has {len(layers)} layers {which}".rstrip())
