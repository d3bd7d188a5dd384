"""What a fleet's broker lets through, by what arrives: a broker grants every subscription and may acknowledge what it drops."""

from __future__ import annotations

import datetime as dt
import gc
import os
import signal
import ssl
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from paho.mqtt.enums import MQTTProtocolVersion

from broker.authority import Authority, Identity
from tests.broker.walls import V5, V311, Guest, WalledFleet
from wire.topics import LARGEST_PACKET, user_of

pytestmark = pytest.mark.slow

HOME = "fedlag/v1/home"
DIGEST = "a" * 64
END = b"this is the end"
BY_DEVICES = ["d/kitchen/status", "d/kitchen/up/summary", f"d/kitchen/up/update/{DIGEST}/0"]
TO_ALL = ["server", "plan", f"model/{DIGEST}/0", f"program/{DIGEST}/0"]
TO_ONE = ["d/kitchen/down/invite", "d/kitchen/down/ack"]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WalledFleet]:
    place = WalledFleet(tmp_path_factory.mktemp("walls"))
    gone = place.device("gone")
    place.authority.revoke(gone.certificate)
    place.start()
    yield place
    assert place.stop() == 0, place.log()


def clear(fleet: WalledFleet, topic: str) -> None:
    """Take back what is retained on a topic, as who may."""
    with fleet.guest("kitchen" if topic in BY_DEVICES else "aggregator") as owner:
        owner.say(f"{HOME}/{topic}", b"", retain=True)


@pytest.mark.parametrize("topic", [*BY_DEVICES, *TO_ALL, *TO_ONE])
def test_what_its_sender_says_reaches_those_whom_it_is_for_and_nobody_else(fleet: WalledFleet, topic: str) -> None:
    sender = "kitchen" if topic in BY_DEVICES else "aggregator"
    readers = {"aggregator"} if topic in BY_DEVICES else {"kitchen", "attic"} if topic in TO_ALL else {"kitchen"}
    with (
        fleet.guest("aggregator", "#") as aggregator,
        fleet.guest("kitchen", "#") as kitchen,
        fleet.guest("attic", "#") as attic,
    ):
        guests = {"aggregator": aggregator, "kitchen": kitchen, "attic": attic}
        guests[sender].say(f"{HOME}/{topic}", b"honest")
        kitchen.say(f"{HOME}/d/kitchen/status", END)
        aggregator.say(f"{HOME}/server", END)
        got = {name for name, guest in guests.items() if (f"{HOME}/{topic}", b"honest") in guest.seen_until(END)}
    assert got - {sender} == readers


@pytest.mark.parametrize("protocol", [V5, V311], ids=["MQTT 5", "MQTT 3.1.1"])
@pytest.mark.parametrize("topic", [*BY_DEVICES, *TO_ALL, *TO_ONE])
def test_what_a_device_says_in_the_name_of_another_or_of_the_aggregator_reaches_nobody_then_or_later(
    fleet: WalledFleet, topic: str, protocol: MQTTProtocolVersion
) -> None:
    victim, witness = ("aggregator", "attic") if topic in BY_DEVICES else ("kitchen", "aggregator")
    end = f"{HOME}/d/attic/status" if witness == "attic" else f"{HOME}/server"
    with fleet.guest(victim, f"{HOME}/{topic}", end) as early:
        with fleet.guest("attic", protocol=protocol) as attic:
            attic.say(f"{HOME}/{topic}", b"poison", retain=True)
        with fleet.guest(witness) as honest:
            honest.say(end, END)
        assert early.seen_until(END) == []
    with fleet.guest(victim, f"{HOME}/{topic}", end) as late, fleet.guest(witness) as honest:
        honest.say(end, END)
        assert late.seen_until(END) == []


@pytest.mark.parametrize("protocol", [V5, V311], ids=["MQTT 5", "MQTT 3.1.1"])
@pytest.mark.parametrize(
    "topic_filter",
    [
        "#",
        "+/#",
        "fedlag/v1/+/d/+/up/#",
        f"{HOME}/#",
        f"{HOME}/d/#",
        f"{HOME}/d/kitchen/#",
        f"{HOME}/d/kitchen/down/ack",
        f"{HOME}/+/+/+/+",
        "$share/all/#",
        f"$share/all/{HOME}/d/+/down/ack",
        "$SYS/#",
    ],
)
def test_a_device_that_subscribes_to_more_than_its_own_hears_its_own(
    fleet: WalledFleet, topic_filter: str, protocol: MQTTProtocolVersion
) -> None:
    with fleet.guest("kitchen") as kitchen:
        kitchen.say(f"{HOME}/d/kitchen/status", b"ready", retain=True)
        with (
            fleet.guest("attic", topic_filter, f"{HOME}/d/attic/down/invite", protocol=protocol) as attic,
            fleet.guest("aggregator", f"{HOME}/d/+/up/#") as aggregator,
        ):
            kitchen.say(f"{HOME}/d/kitchen/up/summary", b"summary")
            assert aggregator.next() == (f"{HOME}/d/kitchen/up/summary", b"summary")
            for topic in TO_ONE:
                aggregator.say(f"{HOME}/{topic}", b"to the kitchen")
            aggregator.say(f"{HOME}/d/attic/down/invite", END)
            assert attic.seen_until(END) == []
    clear(fleet, "d/kitchen/status")


def test_a_device_that_calls_itself_another_is_still_itself(fleet: WalledFleet) -> None:
    mine, its = f"{HOME}/d/attic/down/ack", f"{HOME}/d/kitchen/down/ack"
    with fleet.guest("aggregator") as aggregator, fleet.guest("kitchen", its) as kitchen:
        for name in (user_of("home", "kitchen"), user_of("home")):
            with fleet.guest("attic", "#", client_id=name) as attic:
                aggregator.say(its, b"for the kitchen")
                aggregator.say(mine, END)
                assert attic.seen_until(END) == []
                assert kitchen.next() == (its, b"for the kitchen")
        assert (kitchen.losses, aggregator.losses) == (0, 0)


def test_a_will_on_the_topic_of_another_is_not_executed(fleet: WalledFleet) -> None:
    its, own = f"{HOME}/d/kitchen/status", f"{HOME}/d/attic/status"
    with fleet.guest("aggregator", f"{HOME}/d/+/status") as aggregator:
        for topic in (its, own):
            guest = Guest(fleet.port, "any", fleet.context(fleet.device("attic")))
            guest.client.will_set(topic, b"lost", 1, retain=True)
            guest.connect()
            guest.vanish()
            guest.leave()
        assert aggregator.next() == (own, b"lost"), "the honest will comes, the one before it does not"
    with fleet.guest("aggregator", its, own) as late:
        assert late.next() == (own, b"lost")
        with fleet.guest("attic") as attic:
            attic.say(own, b"", retain=True)
            assert late.next() == (own, b"")


def test_a_packet_above_the_bound_ends_its_connection_and_nobody_elses(fleet: WalledFleet) -> None:
    with fleet.guest("aggregator", f"{HOME}/d/+/up/#") as aggregator, fleet.guest("kitchen") as kitchen:
        with fleet.guest("attic") as attic:
            attic.client.publish(f"{HOME}/d/attic/up/summary", bytes(LARGEST_PACKET + 1), 1)
            kitchen.say(f"{HOME}/d/kitchen/up/summary", bytes(1_000_000))
            assert aggregator.next() == (f"{HOME}/d/kitchen/up/summary", bytes(1_000_000))
        kitchen.say(f"{HOME}/d/kitchen/up/summary", END)
        assert aggregator.next()[1] == END
        assert (kitchen.losses, aggregator.losses) == (0, 0)


def nobody(fleet: WalledFleet, _folder: Path) -> Identity | None:
    del fleet
    return None


def a_foreigner(_fleet: WalledFleet, folder: Path) -> Identity:
    return Authority.found(folder, "FedLAG fleet home", dt.timedelta(days=1)).sign_client(
        user_of("home", "kitchen"), folder / "kitchen"
    )


def one_whose_time_is_over(fleet: WalledFleet, folder: Path) -> Identity:
    return fleet.authority.sign_client(user_of("home", "kitchen"), folder / "old", dt.timedelta(hours=-1))


def one_that_was_revoked(fleet: WalledFleet, _folder: Path) -> Identity:
    return Identity(fleet.certificates / "gone.pem", fleet.certificates / "gone.key")


def the_broker_itself(fleet: WalledFleet, _folder: Path) -> Identity:
    return Identity(fleet.keys / "broker.pem", fleet.keys / "broker.key")


@pytest.mark.filterwarnings("ignore:Exception ignored in. <ssl.SSLSocket:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("who", [nobody, a_foreigner, one_whose_time_is_over, one_that_was_revoked, the_broker_itself])
def test_who_has_no_certificate_that_holds_is_not_let_in_and_not_heard(
    fleet: WalledFleet, tmp_path: Path, who: Callable[[WalledFleet, Path], Identity | None]
) -> None:
    topic = f"{HOME}/d/kitchen/status"
    with fleet.guest("aggregator", f"{HOME}/d/+/status") as aggregator:
        guest = Guest(fleet.port, user_of("home", "kitchen"), fleet.context(who(fleet, tmp_path)))
        assert not guest.knock(topic)
        with fleet.guest("kitchen") as kitchen:
            kitchen.say(topic, END)
            assert aggregator.seen_until(END) == []
    gc.collect()


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:Exception ignored in. <ssl.SSLSocket:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(("version", "is_welcome"), [(ssl.TLSVersion.TLSv1_2, True), (ssl.TLSVersion.TLSv1_1, False)])
def test_tls_before_1_2_is_refused(fleet: WalledFleet, version: ssl.TLSVersion, *, is_welcome: bool) -> None:
    context = fleet.context(fleet.device("attic"))
    context.set_ciphers("DEFAULT:@SECLEVEL=0")  # else our own end would refuse
    context.minimum_version = context.maximum_version = version
    guest = Guest(fleet.port, user_of("home", "attic"), context)
    assert guest.knock(f"{HOME}/d/attic/up/summary") is is_welcome
    if not is_welcome:  # it is the broker that refuses
        fleet.wait_for_log("unsupported protocol")
    gc.collect()


def reload(fleet: WalledFleet) -> None:
    """Tell mosquitto, the child of ``fedlag broker``, to read its files again, and wait until it has."""
    assert fleet.child is not None
    children = Path(f"/proc/{fleet.child.pid}/task/{fleet.child.pid}/children").read_text().split()
    line = f"{HOME}/program/+/+' does not contain"
    before = fleet.log().count(line)
    os.kill(int(children[0]), signal.SIGHUP)
    fleet.wait_for_log(line, before + 1)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lists a process's children")
@pytest.mark.filterwarnings("ignore:Exception ignored in. <ssl.SSLSocket:pytest.PytestUnraisableExceptionWarning")
def test_one_who_is_revoked_is_not_let_in_after_a_reload_and_stays_while_connected(fleet: WalledFleet) -> None:
    topic = f"{HOME}/d/lost/status"
    with fleet.guest("aggregator", topic) as aggregator, fleet.guest("lost") as lost:
        identity = Identity(fleet.certificates / "lost.pem", fleet.certificates / "lost.key")
        fleet.authority.revoke(identity.certificate)
        reload(fleet)
        assert not Guest(fleet.port, "any", fleet.context(identity)).knock(topic)
        lost.say(topic, b"still here")
        assert aggregator.next() == (topic, b"still here")
        assert lost.losses == 0
    gc.collect()


def test_the_brokers_log_names_the_devices_that_come(fleet: WalledFleet) -> None:
    with fleet.guest("cellar", client_id="kitchen"):
        fleet.wait_for_log("as home/d/cellar ")
    assert "as kitchen" not in fleet.log()


def test_keys_stay_for_their_owners_eyes_while_the_broker_runs(fleet: WalledFleet) -> None:
    assert {path.stat().st_mode & 0o077 for path in fleet.keys.iterdir() if path.suffix != ".pub"} == {0}
