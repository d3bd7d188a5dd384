"""Which faults a schedule draws from, as people write it: ``lost=0.2,kills=10``."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from wire.errors import ConfigError

__all__ = ["FaultSpec", "parse_spec"]

Share = Annotated[float, Meta(ge=0, le=0.5)]
Times = Annotated[int, Meta(ge=0, le=1000)]


class FaultSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What happens in one schedule.

    Args:
        duplicated: Share of messages that arrive twice.
        delayed: Share of messages that arrive up to half a minute late, hence in another order.
        lost: Share of messages that never arrive.
        damaged: Share of messages that arrive cut short or overwritten.
        kills: How often a machine's power is cut, at any moment or before any single effect of what it decided.
        cuts: How often a machine loses its link.
        jumps: How often the clock jumps ahead by minutes.
        full_disks: How often a machine's disk is full for a while.
        broker_restarts: How often the broker is killed and comes back without its memory.
        floods: How often a device sends hundreds of messages that nobody asked for, beside what it does otherwise.
    """

    duplicated: Share = 0.2
    delayed: Share = 0.2
    lost: Share = 0.1
    damaged: Share = 0.1
    kills: Times = 12
    cuts: Times = 6
    jumps: Times = 3
    full_disks: Times = 3
    broker_restarts: Times = 2
    floods: Times = 1


def parse_spec(text: str) -> FaultSpec:
    """Return the faults that a line like ``lost=0.2,kills=10`` asks for; ``all`` is the default, ``none`` none.

    What a line does not name does not happen.

    Raises:
        ConfigError: If a name is unknown or a number out of its range.

    Example:
        >>> spec = parse_spec("lost=0.2,kills=10")
        >>> spec.lost, spec.kills, spec.cuts
        (0.2, 10, 0)
    """
    if text == "all":
        return FaultSpec()
    given: dict[str, float] = dict.fromkeys(FaultSpec.__struct_fields__, 0)
    for item in text.split(",") if text != "none" else ():
        name, _, number = item.partition("=")
        if name.strip() not in given:
            raise ConfigError(
                f"there is no fault {name.strip()!r}; there are {', '.join(given)}, as in lost=0.2,kills=10"
            )
        try:
            given[name.strip()] = float(number)
        except ValueError as error:
            raise ConfigError(f"{item.strip()!r} wants a number, as in lost=0.2,kills=10") from error
    try:
        return msgspec.convert(given, FaultSpec, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigError(
            f"the faults {text!r} cannot be: {error}; messages are shares up to 0.5, the rest counts"
        ) from error
