"""Under which names and addresses a machine is reached: those that its broker's certificate must be of."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address

from wire.errors import ConfigError

__all__ = ["names_and_addresses"]

LOCAL = ("localhost", "127.0.0.1", "::1")
ELSEWHERE = ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1"))  # of documentation; nothing is sent
DNS_NAME = re.compile(
    r"(?=.{1,253}\Z)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*", re.IGNORECASE
)


def names_and_addresses(asked: Iterable[str] = ()) -> list[str]:
    """Return the host's names and addresses, those that were asked for first, each once.

    Its own are its name, that name in ``.local``, the addresses from which it speaks to others, and loopback.

    Args:
        asked: Names in ASCII, or addresses.

    Raises:
        ConfigError: If one of those asked for is neither.

    Example:
        >>> names_and_addresses(["home.example"])[0]
        'home.example'
    """
    for host in asked:
        if not _is_host(host):
            raise ConfigError(f"--host {host!r} is neither a host's name nor an address; correct it")
    own = socket.gethostname()
    short = own.partition(".")[0]
    names = [*asked, own, f"{short}.local", *map(str, _addresses()), *LOCAL]
    return [name for name in dict.fromkeys(names) if _is_host(name)]


def _is_host(text: str) -> bool:
    return _address(text) is not None or (DNS_NAME.fullmatch(text) is not None and not text.isdecimal())


def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(text)
    except ValueError:
        return None


def _addresses() -> list[IPv4Address | IPv6Address]:
    """The addresses from which this machine reaches others."""
    found = []
    for family, far in ELSEWHERE:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect((far, 9))
            except OSError:
                continue
            address = _address(probe.getsockname()[0])
        if address is not None and not address.is_unspecified:
            found.append(address)
    return found
