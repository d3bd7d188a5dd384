"""One client on the broker publishes thousands of messages; the fleet beside it does not wait for it."""

from __future__ import annotations

import signal

import pytest
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from tests.e2e.home import Home
from wire.codec import encode_message
from wire.messages import DeviceStatus, Part

pytestmark = pytest.mark.slow

NAMES = ("kitchen", "attic", "cellar")
NUM_MESSAGES = 4000


def flood(home: Home) -> int:
    """Send parts that nobody asked for under the name of a device; return how many."""
    client = Client(CallbackAPIVersion.VERSION2, "mad", protocol=MQTTProtocolVersion.MQTTv5)
    client.connect("127.0.0.1", home.broker.port)
    client.loop_start()
    part = Part(digest="0" * 64, index=0, num_parts=2, size_bytes=8192, data=bytes(4096))
    status = DeviceStatus(state="waiting", session=1, reason="mad")
    client.publish("fedlag/v1/test/d/mad/status", encode_message(status), qos=1).wait_for_publish(30)
    payload = encode_message(part)
    for _ in range(NUM_MESSAGES):
        last = client.publish(f"fedlag/v1/test/d/mad/up/update/{part.digest}/0", payload, qos=0)
    last.wait_for_publish(30)
    client.disconnect()
    client.loop_stop()
    return NUM_MESSAGES


def test_a_fleet_beside_a_client_that_floods_finishes_its_rounds_and_the_log_stays_short(home: Home) -> None:
    for index, name in enumerate(NAMES):
        home.device(name, seed=index)
    config = home.aggregator("fedavg", num_devices=3, num_rounds=1000)
    server = home.fedlag("aggregator", "run", config)
    edges = [home.fedlag("edge", "run", home.folder / f"{name}.toml") for name in NAMES]
    home.wait_for_rounds(2)
    sent = flood(home)
    home.wait_for_rounds(len(home.reports()) + 3)
    report = home.reports()[-1]
    assert sorted(report.counted) == sorted(NAMES)
    assert report.refused_messages["flooding"] > 0.7 * sent
    assert home.end(server, signal.SIGTERM) == 0, home.logs()
    assert [home.end(edge, signal.SIGTERM) for edge in edges] == [0, 0, 0]
    lines = [line for line in home.logs().splitlines() if "mad" in line]
    assert 0 < len(lines) <= 5
    assert not any(name in line for line in home.logs().splitlines() if "flooding" in line for name in NAMES)
