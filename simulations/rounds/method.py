"""A method: which layers are personal, and how a client trains."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from simulations.engines.engine import StepRule
from simulations.rounds.job import Phase
from wire.errors import ConfigError
from wire.messages import TrainingSettings

__all__ = ["LocalRule", "Method", "check_fit", "phases", "step_rule"]

LARGEST_NORM = 1e9
"""``TrainingSettings.max_gradient_norm`` at its upper bound: gradients are never scaled down."""


class LocalRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a client does besides SGD on all its layers.

    Args:
        proximal: FedProx: ``mu`` of ``mu / 2 * |params - installed|^2`` in the loss. T. Li et al., MLSys 2020.
        ditto: Ditto: each client also trains a personal model, pulled to the shared one with this weight, and uses it.
            T. Li et al., ICML 2021.
        personal_epochs: FedRep: so many epochs over the personal layers alone, then the round's epochs over the shared
            ones alone. L. Collins et al., ICML 2021.
        frozen: FedBABU: layers that do not move as long as any layer is shared. J. Oh et al., ICLR 2022.
        adaptive: FedALA: layers of which a client mixes its own version into the average, see
            ``simulations.rounds.adaptive``. J. Zhang et al., AAAI 2023.
        adaptive_rate: Step size of FedALA's mixes.
        adaptive_share: Share of a client's training examples on which it learns them.
        grouped: Personal layers that every fourth client shares (``simulations.rounds.grouping``).
        chooses: A client uses its own version of any layer that is better on its validation examples, whatever the
            fleet has chosen; it trains as the others do.
    """

    proximal: Annotated[float, Meta(ge=0)] = 0.0
    ditto: Annotated[float, Meta(gt=0)] | None = None
    personal_epochs: Annotated[int, Meta(ge=0)] = 0
    frozen: tuple[str, ...] = ()
    adaptive: tuple[str, ...] = ()
    adaptive_rate: Annotated[float, Meta(gt=0)] = 1.0
    adaptive_share: Annotated[float, Meta(gt=0, le=1)] = 0.8
    grouped: tuple[str, ...] = ()
    chooses: bool = False


class Method(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A method of a comparison.

    Args:
        name: As reports show it.
        selector: One of ``aggregator.selection.SELECTOR_NAMES``.
        options: The selector's.
        local: What clients do besides SGD.
        is_exact: The selector sees the updates themselves instead of sketches, those of personal layers, too.
    """

    name: str
    selector: str
    options: dict[str, Any] = {}
    local: LocalRule = LocalRule()
    is_exact: bool = False


def check_fit(method: Method, layers: Collection[str]) -> None:
    """Refuse a method whose clients could not do what it says.

    Args:
        method: Any.
        layers: The model's.

    Raises:
        ConfigError: If it names layers that the model does not have, would train none, or mixes layers that other rules
            make personal.
    """
    local = method.local
    unknown = sorted({*local.frozen, *local.adaptive, *local.grouped} - set(layers))
    if unknown:
        raise ConfigError(f"{method.name} names {unknown}, which the model does not have")
    if len(set(local.frozen)) == len(layers):
        raise ConfigError(f"{method.name} freezes all layers, so nothing would be trained")
    if local.adaptive and (method.selector != "fedavg" or local.ditto is not None):
        raise ConfigError(f"{method.name} mixes layers, which only goes with the selector fedavg and without Ditto")


def step_rule(training: TrainingSettings, proximal: float = 0.0) -> StepRule:
    """Return the rule of a step of all parameters.

    Args:
        training: How the fleet trains.
        proximal: A method's own pull, instead of the fleet's.
    """
    largest = training.max_gradient_norm
    return StepRule(
        training.learning_rate,
        training.momentum,
        None if largest >= LARGEST_NORM else largest,
        proximal or training.proximal or 0.0,
        optimizer=training.optimizer or "sgd",
        is_nesterov=bool(training.nesterov),
        weight_decay=training.weight_decay or 0.0,
    )


def phases(
    rule: LocalRule, training: TrainingSettings, personal_layers: Collection[str], layers: Collection[str]
) -> tuple[Phase, ...]:
    """Return how a client trains in a round.

    Args:
        rule: The method's.
        training: How the fleet trains.
        personal_layers: Those of this round.
        layers: All of the model's.
    """

    def phase(num_epochs: int, trained: Collection[str]) -> Phase:
        moving = None if len(trained) == len(layers) else frozenset(trained)
        return Phase(num_epochs, training.batch_size, step_rule(training, rule.proximal), moving)

    personal = [layer for layer in layers if layer in personal_layers]
    shared = [layer for layer in layers if layer not in personal_layers]
    if rule.personal_epochs and personal and shared:
        return phase(rule.personal_epochs, personal), phase(training.num_epochs, shared)
    moving = [layer for layer in layers if layer not in rule.frozen] if shared else list(layers)
    return (phase(training.num_epochs, moving),)
