"""Someone with full access to the broker plays the aggregator: a device that knows the true one's key does not follow."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from aggregator.config import AggregatorConfig
from aggregator.evidence import Decision
from aggregator.planning import build_plan
from aggregator.program_folder import ProgramFolder
from aggregator.publication import Publication
from aggregator.signing import sign_plan
from aggregator.signing_key import make_signing_key
from tests.e2e.home import PATIENCE_S, Home
from wire.codec import plan_digest
from wire.digest import content_digest
from wire.manifest import encode_manifest
from wire.messages import Invitation
from wire.settings import load_settings
from wire.topics import INVITATION, Address, Envelope, encode_payload, topic_of

pytestmark = pytest.mark.slow


def play_the_aggregator(home: Home, config: AggregatorConfig, devices: list[str]) -> str:
    """Publish another program, whole, and a plan for it under a key of one's own; invite all. Return the program's id."""
    program = ProgramFolder(home.program)
    manifest = encode_manifest(msgspec.structs.replace(program.manifest, model="another"))
    model_id = content_digest(manifest)
    blobs = program.initial_layers(config.initial_values)
    layers = {name: digest for digest, (name, _) in blobs.items()}
    decision = Decision(personal_layers=())
    plan = build_plan(config, model_id, program.manifest, layers, decision, needs_personal_sketches=False)
    files = (manifest, *program.files[1:])
    sign = partial(sign_plan, key=Ed25519PrivateKey.generate())
    publication = Publication(1, files, {digest: data for digest, (_, data) in blobs.items()}, sign)
    envelopes = publication.everything(plan, is_finished=False)
    invitation = Invitation(plan=plan_digest(plan))
    envelopes += [Envelope(Address(INVITATION, name), invitation) for name in devices]
    client = Client(CallbackAPIVersion.VERSION2, config.fleet, protocol=MQTTProtocolVersion.MQTTv5)
    client.connect("127.0.0.1", home.broker.port)
    client.loop_start()
    for envelope in envelopes:
        topic = topic_of(config.fleet, envelope.address)
        client.publish(topic, encode_payload(envelope), qos=1, retain=True).wait_for_publish(30)
    client.disconnect()
    client.loop_stop()
    return model_id


def wait_until(is_true: Callable[[], bool], home: Home) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not is_true():
        assert time.monotonic() < deadline, home.logs()
        time.sleep(0.1)


def signed_device(home: Home, name: str) -> Path:
    path = home.device(name)
    path.write_text(f'{path.read_text()}[aggregator]\nkey = "aggregator.pub"\n')
    return path


def test_a_device_with_the_key_runs_no_program_of_a_false_aggregator_and_goes_on_with_the_true_one(home: Home) -> None:
    make_signing_key(home.folder / "signing.key", home.folder / "aggregator.pub")
    careful, careless = signed_device(home, "kitchen"), home.device("attic")
    path = home.aggregator("fedavg", num_devices=1, num_rounds=2)
    path.write_text(f'signing_key = "signing.key"\n{path.read_text()}')
    model_id = play_the_aggregator(home, load_settings(path, AggregatorConfig), ["kitchen", "attic"])
    edges = [home.fedlag("edge", "run", config) for config in (careful, careless)]
    trained = home.folder / "attic" / "generation-a"
    wait_until(
        lambda: trained.exists() and "kitchen in fleet test: refused plan 0/1: wrong-signature" in home.logs(), home
    )
    assert (home.folder / "attic" / "programs" / model_id / "train.onnx").exists(), "the attack works without a key"
    assert not (home.folder / "kitchen" / "programs").exists()
    assert not (home.folder / "kitchen" / "generation-a").exists()
    assert home.end(edges[1], signal.SIGTERM) == 0
    server = home.fedlag("aggregator", "run", path)
    assert home.end(server) == 0, home.logs()
    assert home.end(edges[0], signal.SIGTERM) == 0, home.logs()
    assert [list(report.counted) for report in home.reports()] == [["kitchen"]] * 3
    programs = [folder.name for folder in (home.folder / "kitchen" / "programs").iterdir()]
    assert programs == [ProgramFolder(home.program).model_id]


def test_a_device_with_the_key_says_why_it_does_not_follow_an_aggregator_without(home: Home) -> None:
    make_signing_key(home.folder / "signing.key", home.folder / "aggregator.pub")
    path = home.aggregator("fedavg", num_devices=2, quorum=1, num_rounds=2, rounds="gather_s = 1")
    edges = [home.fedlag("edge", "run", config) for config in (signed_device(home, "kitchen"), home.device("attic"))]
    server = home.fedlag("aggregator", "run", path)
    assert home.end(server) == 0, home.logs()
    assert [home.end(edge, signal.SIGTERM) for edge in edges] == [0, 0]
    assert all(list(report.counted) == ["attic"] for report in home.reports())
    assert "does the aggregator have its signing_key?" in home.logs()
