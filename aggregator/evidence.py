"""Evidence and decision: what a selector sees of a round, and what it says about the next.

A selector is pure functions and an explicit state: ``start(layer_sizes)`` gives the first plan's decision, then
``decide(state, evidence)`` turns the evidence of round ``r`` into the decision for plan ``r + 1``. It draws nothing at
random and keeps nothing back, so a state that was stored, or evidence that is replayed, gives the same decisions.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, Protocol

import msgspec
from msgspec import UNSET, Meta, UnsetType

from aggregator.conflict import LayerConflict, default_conflict_threshold, layer_conflict
from aggregator.trimmed_conflict import trimmed_conflict
from wire.errors import ConfigError, FleetError

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float32, Float64

__all__ = [
    "Decision",
    "Evidence",
    "FixedState",
    "LayerSelector",
    "MaliciousShare",
    "PaperState",
    "Selector",
    "SelectorState",
    "SwapState",
    "in_model_order",
    "measure_conflicts",
]


MaliciousShare = Annotated[float, Meta(ge=0, lt=0.5)]
"""The share of the devices that may lie; of ``n`` of them ``floor(share * n)``."""


class Evidence(msgspec.Struct, frozen=True, eq=False):
    """What the devices that were counted in a round told about it.

    Args:
        round_number: The round, from 1.
        num_params: Layer -> number of its parameters, all layers, in the model's order.
        sketches: Layer -> one sketch per device, for the layers of which sketches came, in units of the parameters.
        norms: Layer -> Euclidean norm of the same devices' updates; needed where there is a sketch.
        swap_gains: Candidate -> for every device that tested it, its validation loss with the average of the layer
            minus that with its own; empty unless the plan asked for a test.
    """

    round_number: int
    num_params: dict[str, int]
    sketches: dict[str, Float32[np.ndarray, "devices width"]] = {}
    norms: dict[str, Float64[np.ndarray, " devices"]] = {}
    swap_gains: dict[str, Float64[np.ndarray, " testers"]] = {}

    @property
    def num_devices(self) -> int:
        """How many devices told something."""
        told = (*self.norms.values(), *self.sketches.values(), *self.swap_gains.values())
        return max((len(rows) for rows in told), default=0)


class Decision(msgspec.Struct, frozen=True):
    """What the next plan says about layers.

    Args:
        personal_layers: The layers that no device uploads, in the model's order.
        swap_candidates: Shared layers that devices swap, one at a time, at the start of the next round.
        reasons: Layer -> one line for people, for every layer that changed or was tested.
    """

    personal_layers: tuple[str, ...]
    swap_candidates: tuple[str, ...] = ()
    reasons: dict[str, str] = {}


class FixedState(msgspec.Struct, frozen=True, tag="fixed"):
    """The state of a selector that does not look at evidence.

    Args:
        personal_layers: In the model's order.
    """

    personal_layers: tuple[str, ...]


class PaperState(msgspec.Struct, frozen=True, tag="paper"):
    """The state of ``fedlag-paper``.

    Args:
        personal_layers: In the model's order.
        scores: Layer -> its conflict scores, summed over the warm-up; the latest one with ``every_round``.
        is_frozen: The warm-up is over, and nothing changes any more.
    """

    personal_layers: tuple[str, ...]
    scores: dict[str, float] = {}
    is_frozen: bool = False


class SwapState(msgspec.Struct, frozen=True, tag="swap"):
    """The state of ``fedlag-swap``.

    Args:
        personal_layers: In the model's order.
        passed: Layer -> its gain, for the layers that passed the last test and wait for the next.
        scores: Layer -> its latest conflict score.
        tolerated: The layers that the last test found cheap enough to be personal; absent, and not stored, if none.
    """

    personal_layers: tuple[str, ...]
    passed: dict[str, float] = {}
    scores: dict[str, float] = {}
    tolerated: tuple[str, ...] | UnsetType = UNSET


SelectorState = FixedState | PaperState | SwapState
"""Tagged, so that ``msgspec.msgpack.decode(data, type=SelectorState)`` gives back what was encoded."""


class Selector(Protocol):
    """Chooses the personal layers of every round."""

    @property
    def name(self) -> str:
        """Its name in a fleet's configuration and in reports."""
        ...

    @property
    def needs_evidence(self) -> bool:
        """Whether its decisions depend on sketches, norms or gains; if not, a round's number is all it looks at."""
        ...

    @property
    def is_fixed(self) -> bool:
        """Whether the first decision stands for all rounds."""
        ...

    @property
    def needs_personal_sketches(self) -> bool:
        """Whether devices must send narrow sketches of personal layers, too; the plan then declares it."""
        ...

    def start(self, layer_sizes: Mapping[str, int]) -> tuple[SelectorState, Decision]:
        """Return the first state and the decision for round 1.

        Args:
            layer_sizes: Layer -> number of its parameters, in the model's order.

        Raises:
            ConfigError: If an option does not fit the model.
        """
        ...

    def decide(self, state: SelectorState, evidence: Evidence) -> tuple[SelectorState, Decision]:
        """Return the next state, and the decision for the round after the one that gave the evidence.

        Raises:
            FleetError: If the state is another selector's.
        """
        ...


class LayerSelector(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What all selectors have in common; their options are their fields.

    Args:
        pinned: Layers that are personal from round 1 on, whatever the evidence says.
        num_rounds: Rounds of the fleet; None is without an end.
    """

    name: ClassVar[str]

    pinned: tuple[str, ...] = ()
    num_rounds: Annotated[int, Meta(ge=1)] | None = None

    @property
    def needs_evidence(self) -> bool:
        """Whether the devices' evidence changes its decisions; a simulation need not make any where it does not."""
        return True

    @property
    def is_fixed(self) -> bool:
        """Whether the first decision stands for all rounds; then devices need not keep their own version of shared layers."""
        return False

    @property
    def needs_personal_sketches(self) -> bool:
        """Whether devices must send sketches of personal layers; most selectors need none."""
        return False

    def first_decision(self, layer_sizes: Mapping[str, int], chosen: Collection[str] = ()) -> Decision:
        """Return the decision for round 1: the pinned layers, and those that were chosen without evidence.

        Raises:
            ConfigError: If the model has no layer of a pinned name.
        """
        for layer in self.pinned:
            if layer not in layer_sizes:
                raise ConfigError(f"pinned layer {layer!r} is not in the model; it has {', '.join(layer_sizes)}")
        personal_layers = in_model_order({*self.pinned, *chosen}, layer_sizes)
        because = {layer: "pinned" if layer in self.pinned else self.name for layer in personal_layers}
        reasons = {layer: f"personal from round 1 on ({why})" for layer, why in because.items()}
        return Decision(personal_layers, reasons=reasons)

    def foreign_state(self, state: SelectorState) -> FleetError:
        """Return the error that says that a state was stored by another kind of selector."""
        kind = type(state).__struct_config__.tag
        return FleetError(f"the stored state is of the kind {kind!r}, which {self.name} cannot go on from")


def in_model_order(layers: Collection[str], model_layers: Iterable[str]) -> tuple[str, ...]:
    """Return those of the model's layers that are among the given ones, each once, in the model's order."""
    return tuple(layer for layer in model_layers if layer in layers)


def measure_conflicts(
    evidence: Evidence, conflict_threshold: float | None = None, malicious_share: float | None = None
) -> dict[str, LayerConflict]:
    """Return the conflict of every layer of which at least two devices that moved sent a sketch.

    Args:
        evidence: Of a round; a device with a norm of 0 leaves the layer's pairs.
        conflict_threshold: For all layers; None is ``default_conflict_threshold`` of each.
        malicious_share: Of the devices, in ``[0, 0.5)``, whose sketches may be lies (``aggregator.trimmed_conflict``); None
            believes all.

    Returns:
        Layer -> its conflict, in the model's order, with at least one pair each.

    Raises:
        FleetError: If a layer's sketches come without its norms.
    """
    num_malicious = int((malicious_share or 0.0) * evidence.num_devices)
    conflicts = {}
    for layer, num_params in evidence.num_params.items():
        if layer not in evidence.sketches:
            continue
        sketches = evidence.sketches[layer]
        norms = evidence.norms.get(layer)
        if norms is None or norms.shape != sketches.shape[:1]:
            raise FleetError(f"layer {layer!r}: {len(sketches)} sketches came without as many norms")
        threshold = conflict_threshold
        if threshold is None:
            threshold = default_conflict_threshold(num_params, sketches.shape[1])
        moved = norms > 0
        told = sketches if moved.all() else sketches[moved]
        conflict = (
            trimmed_conflict(told, threshold, num_malicious) if num_malicious else layer_conflict(told, threshold)
        )
        if conflict.num_compared:
            conflicts[layer] = conflict
    return conflicts
