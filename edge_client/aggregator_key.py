"""The public key of the fleet's aggregator: a plan that it has not signed is none.

Loaded only where the device's configuration names a key, for the library takes some 10 MB of memory.
"""

from __future__ import annotations

from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from wire.errors import ConfigError, WireError
from wire.messages import RoundPlan
from wire.signature import signed_bytes

__all__ = ["AggregatorKey"]


class AggregatorKey:
    """Checks signatures.

    Args:
        key: The public key of the aggregator.
    """

    def __init__(self, key: Ed25519PublicKey) -> None:
        """Keep the key."""
        self._key = key

    @classmethod
    def load(cls, path: Path) -> AggregatorKey:
        """Return the key in a PEM file.

        Raises:
            ConfigError: If the file cannot be read, or is no public key of Ed25519.
        """
        try:
            key = load_pem_public_key(path.read_bytes())
        except OSError as error:
            raise ConfigError(f"cannot read the aggregator's key {path}: {error.strerror}; {_WHAT_TO_DO}") from error
        except (ValueError, UnsupportedAlgorithm) as error:
            raise ConfigError(f"the aggregator's key {path} is no public key in PEM; {_WHAT_TO_DO}") from error
        if not isinstance(key, Ed25519PublicKey):
            raise ConfigError(f"the aggregator's key {path} is not of Ed25519; {_WHAT_TO_DO}")
        return cls(key)

    def check(self, plan: RoundPlan) -> None:
        """Refuse a plan that this key has not signed as it stands.

        Raises:
            WireError: ``wrong-signature``.
        """
        if not plan.signature:
            raise WireError("wrong-signature", "it is not signed; does the aggregator have its signing_key?")
        try:
            self._key.verify(plan.signature, signed_bytes(plan))
        except InvalidSignature:
            raise WireError(
                "wrong-signature", "it was altered, or signed with another key than this device's"
            ) from None


_WHAT_TO_DO = "copy there what `fedlag aggregator public-key` prints on the server"
