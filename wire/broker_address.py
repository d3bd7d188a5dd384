"""Where the broker is, and how both ends know each other: plain TCP on one machine, TLS with certificates anywhere else."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from wire.errors import ConfigError

__all__ = ["BrokerAddress"]


class BrokerAddress(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the broker is.

    Args:
        host: Its name or address; over TLS its certificate must be of this name.
        port: Its TCP port.
        ca: The certificate of the authority that signed the broker's, PEM; with it the link is TLS 1.2 or later.
        certificate: This end's own certificate, PEM, with the authorities between it and ``ca``, if there are some.
        key: Its private key, PEM, not encrypted.
    """

    host: Annotated[str, Meta(min_length=1)] = "127.0.0.1"
    port: Annotated[int, Meta(ge=1, le=65535)] = 1883
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    def __post_init__(self) -> None:
        """Refuse settings that contradict each other."""
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key go together: give both, or none")
        if self.certificate is not None and self.ca is None:
            raise ValueError("a certificate without ca would go over plain TCP: name the authority's certificate, too")

    def tls_context(self) -> ssl.SSLContext | None:
        """Return how to speak TLS with the broker, ``None`` over plain TCP. Name and certificate of the broker are checked.

        Raises:
            ConfigError: If a file is missing, or is not what it must be.
        """
        if self.ca is None:
            return None
        path = self.ca
        try:
            context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=path)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            context.sslsocket_class = _ClosedOnFailure
            if self.certificate is not None:
                path = self.certificate
                context.load_cert_chain(path, self.key, password=_no_password)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or getattr(error, "reason", None) or error
            both = f"{path} or {self.key}" if path == self.certificate else f"{path}"
            raise ConfigError(f"cannot use {both} to speak TLS with the broker: {reason}; name PEM files") from error
        return context


class _ClosedOnFailure(ssl.SSLSocket):
    """A socket that is closed where its handshake fails; paho leaves it to the garbage collector."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except OSError:
            self.close()
            raise


def _no_password() -> str:
    """Answer OpenSSL, which would ask a person otherwise."""
    raise ValueError("the key is encrypted")
