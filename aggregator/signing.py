"""The aggregator's signature under its plans. No I/O.

Ed25519 needs no randomness and has one signature for a plan and a key: a plan that is published again, after a restart
or when the link comes back, is the same to the byte.
"""

from __future__ import annotations

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from wire.messages import RoundPlan
from wire.signature import signed_bytes

__all__ = ["sign_plan"]


def sign_plan(plan: RoundPlan, key: Ed25519PrivateKey | None) -> RoundPlan:
    """Return the plan with its signature, of 64 bytes, in place of any that it had; without a key, with none.

    Its digest stays as it is.
    """
    signature = b"" if key is None else key.sign(signed_bytes(plan))
    return msgspec.structs.replace(plan, signature=signature)
