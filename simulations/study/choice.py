"""A method by its name in a study: those of ``simulations.rounds.methods``, and fixed choices of layers."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import combinations
from typing import Any

from simulations.engines.model import SimulatedModel
from simulations.rounds.method import Method
from simulations.rounds.methods import METHODS, make_method
from simulations.study.config import MethodChoice
from wire.errors import ConfigError

__all__ = ["ALL_MASKS", "MASK", "choose_method", "expand_masks", "is_fixed", "method_label"]

ALL_MASKS = "masks"
MASK = "mask-"
NO_LAYER = "none"
MOST_MASKED_LAYERS = 6
"""Of more layers not all choices are tried: 2 to the power of their number."""

FIXED = frozenset({"fedavg", "local", "fedper", "lg-fedavg", "fedbn"})
"""The methods that choose layers without looking at anybody's data, and keep to it."""


def choose_method(name: str, options: Mapping[str, Any], model: SimulatedModel, num_rounds: int) -> Method:
    """Return a method for a model.

    Args:
        name: One of ``METHODS``, or ``mask-`` and layers joined by ``+`` (``mask-none``: no layer).
        options: The method's own.
        model: Whose layers it chooses from.
        num_rounds: Of the whole run.

    Raises:
        ConfigError: If there is no such method, option or layer, or an option's value is wrong.
    """
    if name.startswith(MASK):
        if options:
            raise ConfigError(f"{name} has no option {next(iter(options))!r}: it is a fixed choice of layers")
        layers = [] if name == MASK + NO_LAYER else name.removeprefix(MASK).split("+")
        unknown = [layer for layer in layers if layer not in model.layer_sizes]
        if unknown:
            raise ConfigError(f"{name}: the model has no layer {unknown[0]!r}; it has {', '.join(model.layer_sizes)}")
        return Method(name=name, selector="fixed", options={"layers": layers})
    if name not in METHODS:
        known = ", ".join(METHODS)
        raise ConfigError(f"no method is named {name!r}; take one of {known}, {MASK}LAYER+LAYER or {ALL_MASKS}")
    return make_method(name, model, num_rounds, **options)


def expand_masks(methods: Collection[MethodChoice], layers: Collection[str]) -> tuple[MethodChoice, ...]:
    """Return the methods, with every choice of layers in the place of ``masks``.

    Raises:
        ConfigError: If the model has too many layers for that.

    Example:
        >>> [it.name for it in expand_masks([MethodChoice(name="masks")], ["fc1", "head"])]
        ['mask-none', 'mask-fc1', 'mask-head', 'mask-fc1+head']
    """
    expanded: list[MethodChoice] = []
    for method in methods:
        if method.name != ALL_MASKS:
            expanded.append(method)
        elif len(layers) > MOST_MASKED_LAYERS:
            raise ConfigError(f"a model with {len(layers)} layers has too many masks; name some, as mask-LAYER+LAYER")
        else:
            chosen = [mask for size in range(len(layers) + 1) for mask in combinations(layers, size)]
            expanded += [MethodChoice(name=MASK + ("+".join(mask) or NO_LAYER)) for mask in chosen]
    return tuple(expanded)


def is_fixed(name: str) -> bool:
    """Say whether a method is a fixed choice of layers, so that it can be an answer to "which should be personal?"."""
    return name in FIXED or name.startswith(MASK)


def method_label(method: MethodChoice) -> str:
    """Return what a study calls a method.

    Example:
        >>> method_label(MethodChoice(name="fedlag-paper", options={"num_personal": 3}))
        'fedlag-paper num_personal=3'
    """
    told = ", ".join(f"{name}={_told(value)}" for name, value in method.options.items())
    return method.label or f"{method.name} {told}".rstrip()


def _told(value: object) -> str:
    return "+".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
