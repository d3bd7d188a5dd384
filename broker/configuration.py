"""mosquitto's configuration: TLS alone, a certificate for everybody, whose common name is the user's name and the client id.

So nobody can take another's place. Nothing relies on what the broker remembers: the aggregator publishes all that it retains each time it
connects, and devices send again what the aggregator itself has not acknowledged. A memory on disk spares them that after a restart.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from broker.authority import Identity
from wire.topics import LARGEST_PACKET

__all__ = ["Entrance", "configuration", "for_a_running_broker"]

HEADING = "# What holds for the whole broker."
ENTRANCE = "# Where the fleet comes in."
PATHS = {"cafile", "certfile", "keyfile", "crlfile", "acl_file"}
SEPARATE = "per_listener_settings true"
ADVICE = f"""\
# For a mosquitto that runs already: at the top of its mosquitto.conf, or in its folder conf.d as its first file.
# The user as whom it runs must be able to read the files that are named here, and pass the folders above them.
# `{SEPARATE}` gives every listener rules of its own: yours need their allow_anonymous, acl_file and so on below themselves.
# All listeners share all topics. So who comes in elsewhere must be kept out of the fleet's: with an acl_file there that ends with
#   pattern readwrite #
#   pattern deny fedlag/#
# and, if that listener lets in who has no name, the same two lines with `topic` before any `user`.
# What holds for the whole broker is yours to say, once, at least as large:"""


class Entrance(NamedTuple):
    """Where a broker listens, and whom it lets in.

    Args:
        port: Its TCP port.
        host: The address on which it listens; empty: on all.
        ca: The certificate of the authority that signed everybody's.
        identity: Its own certificate and key.
        revocations: The signed list of the certificates that hold no longer; absent: all hold.
        access: Who may publish and read what; absent: everybody everything.
    """

    port: int
    host: str
    ca: Path
    identity: Identity
    revocations: Path | None = None
    access: Path | None = None


def configuration(entrance: Entrance, user: str, memory: Path | None = None, logged: str = "error warning") -> str:
    """Return mosquitto's configuration.

    Args:
        entrance: Where it listens.
        user: As whom it runs if root starts it; root would become a user who cannot read the key.
        memory: The folder in which it keeps retained messages; absent: it keeps none.
        logged: Which kinds of messages it writes to standard error.
    """
    lines = [HEADING, SEPARATE, f"user {user}"]
    if memory is None:
        lines += ["persistence false"]
    else:
        lines += ["persistence true", f"persistence_location {memory}/"]
        lines += ["autosave_on_changes true", "autosave_interval 1000"]
    lines += ["persistent_client_expiration 7d", "max_queued_messages 100000", "max_inflight_messages 100"]
    lines += [f"max_packet_size {LARGEST_PACKET}", "set_tcp_nodelay true", "log_dest stderr"]
    lines += [f"log_type {kind}" for kind in logged.split()]
    lines += ["log_timestamp_format %Y-%m-%dT%H:%M:%S", "", ENTRANCE]
    lines += [f"listener {entrance.port} {entrance.host}".rstrip(), f"cafile {entrance.ca}"]
    lines += [f"certfile {entrance.identity.certificate}", f"keyfile {entrance.identity.key}"]
    if entrance.revocations is not None:
        lines += [f"crlfile {entrance.revocations}"]
    lines += ["tls_version tlsv1.2", "require_certificate true", "use_identity_as_username true"]
    lines += ["use_username_as_clientid true", "allow_anonymous false"]
    if entrance.access is not None:
        lines += [f"acl_file {entrance.access}"]
    return "\n".join([*lines, ""])


def for_a_running_broker(text: str, folder: Path) -> str:
    """Return a configuration as part of that of a mosquitto that runs elsewhere.

    Args:
        text: What ``configuration`` returned.
        folder: From where its relative paths start.

    Returns:
        The lines of the entrance, with absolute paths, behind advice. Where the broker runs, what it keeps and logs is its own
        affair; how much it takes is advised.
    """
    general, _, entrance = text.partition(f"{ENTRANCE}\n")
    advised = [f"#   {line}" for line in general.splitlines() if line.startswith(("max_", "persistent_client"))]
    lines = []
    for line in entrance.splitlines():
        option, _, value = line.partition(" ")
        lines.append(f"{option} {folder / value}" if option in PATHS else line)
    return "\n".join([ADVICE, *advised, SEPARATE, "", ENTRANCE, *lines, ""])
