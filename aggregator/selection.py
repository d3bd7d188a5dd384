"""Selection: who decides which layers stay personal, by name.

``fedlag-swap`` is FedLAG's conflict detection, confirmed on the devices, and the default, so ``fedlag`` means it, too;
``fedlag-paper`` is the paper's own rule; all others are what both are measured against.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import msgspec

from aggregator.evidence import Decision, Evidence, Selector, SelectorState
from aggregator.fixed_selection import FedAvg, FedPer, Fixed, LgFedAvg, Local, RandomLayers
from aggregator.paper_selection import FedlagPaper
from aggregator.swap_selection import FedlagSwap
from aggregator.then_local_selection import FedAvgThenLocal
from wire.errors import ConfigError

__all__ = ["SELECTOR_NAMES", "Decision", "Evidence", "Selector", "SelectorState", "make_selector"]

AnySelector = FedAvg | FedAvgThenLocal | FedPer | FedlagPaper | FedlagSwap | Fixed | LgFedAvg | Local | RandomLayers

ALL_SELECTORS: tuple[type[AnySelector], ...] = (
    FedlagSwap,
    FedlagPaper,
    FedAvg,
    Local,
    FedPer,
    LgFedAvg,
    Fixed,
    RandomLayers,
    FedAvgThenLocal,
)
SELECTORS: dict[str, type[AnySelector]] = {
    "fedlag": FedlagSwap,
    **{selector.name: selector for selector in ALL_SELECTORS},
}
SELECTOR_NAMES = tuple(SELECTORS)
"""All names that a configuration may give, the default first."""


def make_selector(
    name: str,
    options: Mapping[str, Any],
    num_rounds: int | None,
    statistics: Collection[str] = (),
    malicious_share: float | None = None,
) -> Selector:
    """Return the selector of this name.

    Args:
        name: One of ``SELECTOR_NAMES``.
        options: Its options by name, as a configuration file holds them; every selector takes ``pinned``, the layers
            that are personal from round 1 on.
        num_rounds: Rounds of the fleet, at least 1; None is without an end.
        statistics: The model's layers of running statistics: pinned, unless the options say what is.
        malicious_share: Of the devices that may lie, for a rule that listens to them, unless its options say how many.

    Raises:
        ConfigError: If there is no such selector or option, or an option's value is wrong.

    Example:
        >>> selector = make_selector("fedper", {"num_personal": 1, "pinned": ["conv1"]}, num_rounds=None)
        >>> state, decision = selector.start({"conv1": 832, "fc1": 51_264, "head": 650})
        >>> decision.personal_layers
        ('conv1', 'head')
    """
    if name not in SELECTORS:
        raise ConfigError(f"no selector is called {name!r}; choose one of {', '.join(SELECTOR_NAMES)}")
    selector = SELECTORS[name]
    known = [option for option in selector.__struct_fields__ if option != "num_rounds"]
    unknown = [option for option in options if option not in known]
    if unknown:
        raise ConfigError(f"selector {name} has no option {unknown[0]!r}; it has {', '.join(known)}")
    try:
        doubt = {"malicious_share": malicious_share} if "malicious_share" in known else {}
        return msgspec.convert({"pinned": statistics, **doubt, **options, "num_rounds": num_rounds}, type=selector)
    except msgspec.ValidationError as error:
        raise ConfigError(f"selector {name}: {error}") from error
