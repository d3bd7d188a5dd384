"""A fleet's folder: made beside its place, and renamed into it whole.

::

    home/
    ├── aggregator.toml     the aggregator's configuration, every option explained
    ├── aggregator/         its versions, layers and reports
    ├── keys/               ca, broker and aggregator, each .pem and .key; crl.pem; signing.key, which signs plans, and signing.pub
    ├── mosquitto.conf      the broker's configuration; its paths start here
    ├── access.txt          who may publish and read what
    ├── mosquitto/          what the broker keeps
    └── systemd/            units to copy to /etc/systemd/system

The folder is for its owner's eyes alone.
"""

from __future__ import annotations

import datetime as dt
import getpass
import re
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from string import Template

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from broker.access import access_list
from broker.authority import Authority, Identity
from broker.configuration import Entrance, configuration
from broker.founding.units import aggregator_unit, broker_unit, edge_unit
from broker.mosquitto import find_mosquitto
from wire.durable import storage_error, write_durably
from wire.errors import BrokerError, ConfigError
from wire.topics import user_of

__all__ = ["found_fleet"]

VALID_FOR = dt.timedelta(days=20 * 365)
LONGEST_FLEET = 32
FLEET = re.compile(rf"[a-z0-9-]{{1,{LONGEST_FLEET}}}")
USUAL_MOSQUITTO = "/usr/sbin/mosquitto"
LOGGED = "error warning notice"


def found_fleet(folder: Path, fleet: str, hosts: Sequence[str], port: int) -> None:
    """Make a fleet's folder.

    Args:
        folder: Its place; nothing may be there.
        fleet: Its name: a-z, 0-9 and -, at most 32 characters, so that a certificate's 64 hold a device's name beside it.
        hosts: The names and addresses of the machine on which the broker runs.
        port: The broker's TCP port.

    Raises:
        ConfigError: If something is there already, or the fleet's name cannot be one.
        StoreError: If the disk refuses. Nothing is left behind.
    """
    if not FLEET.fullmatch(fleet):
        raise ConfigError(
            f"{fleet!r} cannot be a fleet's name: take a-z, 0-9 and -, at most {LONGEST_FLEET}, with --fleet"
        )
    place = folder.absolute()
    if place.exists() or place.is_symlink():
        raise ConfigError(f"{folder} exists and is left as it is; choose another folder, or move it away")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=f".{place.name}-", dir=place.parent))
    except OSError as error:
        raise storage_error(place, error) from error
    try:
        for name in ("keys", "aggregator", "mosquitto"):
            (unfinished / name).mkdir(mode=0o700)
        _write_keys(unfinished / "keys", fleet, hosts)
        for path, text in _texts(place, fleet, port).items():
            (unfinished / path).parent.mkdir(exist_ok=True)
            write_durably(unfinished / path, text.encode())
        unfinished.rename(place)
    except OSError as error:
        raise storage_error(place, error) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _write_keys(keys: Path, fleet: str, hosts: Sequence[str]) -> None:
    """Make what is secret, and the public halves beside it."""
    authority = Authority.found(keys, f"FedLAG fleet {fleet}", VALID_FOR)
    authority.sign_server("broker", *hosts)
    authority.sign_client(user_of(fleet), keys / "aggregator")
    authority.revoke()
    signing = Ed25519PrivateKey.generate()  # as `fedlag aggregator new-key` makes one
    write_durably(keys / "signing.key", signing.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), 0o600)
    public = signing.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    write_durably(keys / "signing.pub", public)


def _texts(place: Path, fleet: str, port: int) -> dict[str, str]:
    user, fedlag = getpass.getuser(), str(Path(sys.executable).with_name("fedlag"))
    keys = Path("keys")
    entrance = Entrance(
        port=port,
        host="",
        ca=keys / "ca.pem",
        identity=Identity(keys / "broker.pem", keys / "broker.key"),
        revocations=keys / "crl.pem",
        access=Path("access.txt"),
    )
    template = Template(Path(__file__).with_name("aggregator.toml").read_text())
    return {
        "aggregator.toml": template.substitute(fleet=fleet, port=port),
        "mosquitto.conf": configuration(entrance, user, Path("mosquitto"), LOGGED),
        "access.txt": access_list(fleet),
        f"systemd/fedlag-{fleet}-broker.service": broker_unit(fleet, place, user, _mosquitto()),
        f"systemd/fedlag-{fleet}-aggregator.service": aggregator_unit(fleet, place, user, fedlag),
        f"systemd/fedlag-{fleet}-edge.service": edge_unit(fleet, fedlag),
    }


def _mosquitto() -> str:
    try:
        return find_mosquitto()
    except BrokerError:
        return USUAL_MOSQUITTO
