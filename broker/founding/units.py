"""systemd units: each part of a fleet starts again whatever ends it, and may touch its own folder alone."""

from __future__ import annotations

from pathlib import Path

__all__ = ["aggregator_unit", "broker_unit", "edge_unit"]

HARDENING = """\
Restart=always
RestartSec=10
UMask=0077
NoNewPrivileges=yes
CapabilityBoundingSet=
ProtectSystem=strict
ProtectHome=read-only
PrivateTmp=yes
PrivateDevices=yes
ProtectClock=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectControlGroups=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
SystemCallArchitectures=native
"""


def broker_unit(fleet: str, folder: Path, user: str, mosquitto: str) -> str:
    """Return the unit of mosquitto on the fleet's folder; ``systemctl reload`` makes it read access list and revocations again.

    Args:
        fleet: The fleet's name.
        folder: Where ``mosquitto.conf`` is, an absolute path.
        user: As whom it runs: the owner of the keys.
        mosquitto: The program, an absolute path.
    """
    command = f"{_quoted(mosquitto)} -c mosquitto.conf"
    more = f"ExecReload=/bin/kill -HUP $MAINPID\n{_place(folder, user)}ReadWritePaths={_quoted(folder / 'mosquitto')}\n"
    return _unit(f"MQTT broker of the fleet {fleet}", "network-online.target", command, more)


def aggregator_unit(fleet: str, folder: Path, user: str, fedlag: str) -> str:
    """Return the unit of the aggregator; the arguments are as above, and the program ``fedlag``."""
    after = f"network-online.target time-sync.target fedlag-{fleet}-broker.service"
    more = f"{_place(folder, user)}ReadWritePaths={_quoted(folder / 'aggregator')}\n"
    return _unit(f"Aggregator of the fleet {fleet}", after, f"{_quoted(fedlag)} aggregator run aggregator.toml", more)


def edge_unit(fleet: str, fedlag: str) -> str:
    """Return the unit of a device, to be copied there: its files are in ``/var/lib/fedlag``, and a user of its own reads them.

    Args:
        fleet: The fleet's name.
        fedlag: The program, an absolute path; likely another on the device.
    """
    more = "DynamicUser=yes\nStateDirectory=fedlag\nStateDirectoryMode=0700\nWorkingDirectory=%S/fedlag\nEnvironment=XDG_CACHE_HOME=%S/fedlag/cache\nNice=10\n"
    after = "network-online.target time-sync.target"
    said = (
        "# For a device: put its device.toml, data and keys into /var/lib/fedlag, correct the path of fedlag, copy this file\n"
        "# to /etc/systemd/system, and enable it.\n"
    )
    return said + _unit(f"Device of the fleet {fleet}", after, f"{_quoted(fedlag)} edge run device.toml", more)


def _place(folder: Path, user: str) -> str:
    return f"User={_escaped(user)}\nWorkingDirectory={_escaped(str(folder))}\n"


def _unit(about: str, after: str, command: str, more: str) -> str:
    return (
        f"[Unit]\nDescription={about}\nWants=network-online.target\nAfter={after}\nStartLimitIntervalSec=0\n\n"
        f"[Service]\nExecStart={command}\n{more}{HARDENING}\n"
        "[Install]\nWantedBy=multi-user.target\n"
    )


def _escaped(text: str) -> str:
    return text.replace("%", "%%")


def _quoted(path: Path | str) -> str:
    """Return a path as systemd reads it back, spaces and quotes included."""
    text = _escaped(str(path)).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"' if any(it in text for it in " \"\\'") else text
