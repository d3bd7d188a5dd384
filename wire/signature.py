"""What an aggregator signs of a plan, and a device checks: one Ed25519 signature (RFC 8032) over these bytes.

A plan names all else by digest: the program by its manifest's, which names its files, and each layer by its values'. So one
signature covers code and values. The fleet's name, the epoch and the round are in the plan: a signature holds for no other fleet
and no later round. Whoever signs and whoever checks have a library for it (``aggregator.signing``,
``edge_client.aggregator_key``); the wire needs none.
"""

from __future__ import annotations

import msgspec

from wire.codec import encode_message
from wire.messages import RoundPlan

__all__ = ["PLAN_CONTEXT", "signed_bytes"]

PLAN_CONTEXT = b"fedlag/v1 plan\n"
"""Stands before the plan: the key may sign other kinds of things one day, and none can be taken for a plan."""


def signed_bytes(plan: RoundPlan) -> bytes:
    r"""Return what is signed: the context, then the plan's bytes with an empty ``signature``, as for its digest.

    Example:
        >>> from wire.messages import TrainingSettings
        >>> plan = RoundPlan(
        ...     fleet="home", epoch=0, round_number=1, model_id="0" * 64, shared_layers={}, personal_layers={},
        ...     training=TrainingSettings(), sketch_seed=0, sketch_width=1, duration_s=1.0,
        ... )
        >>> signed_bytes(plan)[:31]
        b'fedlag/v1 plan\n\x8f\xa7version\x01\xa5fleet'
    """
    return PLAN_CONTEXT + encode_message(msgspec.structs.replace(plan, signature=b""))
