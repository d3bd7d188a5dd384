"""The attack must catch a build that gives personal layers away: each of these does, in another disguise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
import zstandard

import aggregator.fleet
import edge_client.upload
import simulations.loopback.device
from edge_client.generation import Generation, Traffic, Upload, compose_generation
from edge_client.training import RoundOutcome, RoundWork
from edge_client.upload import UploadConversation
from tests.privacy.witness import Witness, make_witness
from wire.digest import content_digest
from wire.manifest import LayerSpec, ModelManifest
from wire.messages import LayerSummary
from wire.parts import split_blob
from wire.sketches import CountSketch, personal_width
from wire.tensors import encode_layer
from wire.topics import UPDATE, Address, Envelope

LEAKING = "pi-0"
PINNED = ["hidden", "middle2"]
NUM_PIECES = 4

Leak = Callable[[RoundWork, LayerSpec, np.ndarray, np.ndarray], bytes]
"""What a leaking build puts in the place of a personal layer's sketch: of its values and its update."""


def as_float32(_work: RoundWork, _layer: LayerSpec, values: np.ndarray, _update: np.ndarray) -> bytes:
    return values.astype("<f4").tobytes()


def in_the_other_byte_order(_work: RoundWork, _layer: LayerSpec, values: np.ndarray, _update: np.ndarray) -> bytes:
    return b"-" + values.astype(">f4").tobytes()


def as_bfloat16(_work: RoundWork, layer: LayerSpec, values: np.ndarray, _update: np.ndarray) -> bytes:
    return encode_layer(layer, values, "bfloat16")


def as_int8(_work: RoundWork, layer: LayerSpec, values: np.ndarray, _update: np.ndarray) -> bytes:
    return encode_layer(layer, values, "int8", "raw")


def as_an_update(_work: RoundWork, _layer: LayerSpec, _values: np.ndarray, update: np.ndarray) -> bytes:
    return update.astype("<f4").tobytes()


def compressed_twice(_work: RoundWork, _layer: LayerSpec, _values: np.ndarray, update: np.ndarray) -> bytes:
    return zstandard.compress(update.astype("<f2").tobytes())


def in_pieces_over_several_rounds(work: RoundWork, _layer: LayerSpec, values: np.ndarray, _update: np.ndarray) -> bytes:
    return np.array_split(values, NUM_PIECES)[work.plan.round_number % NUM_PIECES].astype("<f4").tobytes()


def as_a_sketch_of_full_width(work: RoundWork, layer: LayerSpec, _values: np.ndarray, update: np.ndarray) -> bytes:
    return (
        CountSketch(work.plan.sketch_seed, layer.name, layer.num_params, layer.num_params - 1)
        .summarize(update)
        .tobytes()
    )


def as_an_exact_sketch(work: RoundWork, layer: LayerSpec, _values: np.ndarray, update: np.ndarray) -> bytes:
    return (
        CountSketch(work.plan.sketch_seed, layer.name, layer.num_params, layer.num_params).summarize(update).tobytes()
    )


def as_a_sketch_with_a_fresh_seed(work: RoundWork, layer: LayerSpec, _values: np.ndarray, update: np.ndarray) -> bytes:
    width = personal_width(layer.num_params, work.plan.sketch_width)
    seed = work.plan.sketch_seed + work.plan.round_number
    return (
        CountSketch(seed, layer.name, layer.num_params, width, personal=True).summarize(update).tobytes()
        if width
        else b""
    )


def plant(monkeypatch: pytest.MonkeyPatch, change: Callable[..., RoundOutcome]) -> None:
    """Let one device report something else than what its round gave."""

    def leaking(
        manifest: ModelManifest,
        work: RoundWork,
        outcome: RoundOutcome,
        previous: Generation | None,
        num_examples: int,
        traffic: Traffic,
    ) -> Generation:
        if work.device_id == LEAKING:
            outcome = change(manifest, work, outcome)
        return compose_generation(manifest, work, outcome, previous, num_examples, traffic)

    monkeypatch.setattr(simulations.loopback.device, "compose_generation", leaking)


def in_the_summary(leak: Leak) -> Callable[[ModelManifest, RoundWork, RoundOutcome], RoundOutcome]:
    def change(manifest: ModelManifest, work: RoundWork, outcome: RoundOutcome) -> RoundOutcome:
        layers = dict(outcome.layers)
        for name in work.plan.personal_layers:
            values = outcome.own[name]
            told = leak(work, manifest.layer(name), values, values - work.installed[name])
            layers[name] = LayerSummary(layers[name].norm, told)
        return outcome._replace(layers=layers)

    return change


def watch_leak(num_rounds: int = 2) -> Witness:
    witness = make_witness("fedavg", {"pinned": PINNED})
    witness.watch(num_rounds)
    return witness


@pytest.mark.parametrize(
    "leak",
    [
        as_float32,
        in_the_other_byte_order,
        as_bfloat16,
        as_int8,
        as_an_update,
        compressed_twice,
        in_pieces_over_several_rounds,
    ],
)
def test_a_personal_layer_that_is_uploaded_is_found(leak: Leak, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, in_the_summary(leak))
    patient = lambda ready, *_: ready  # noqa: E731 - else it sits out: the aggregator refuses what it says in every round
    monkeypatch.setattr(aggregator.fleet, "who_may_be_asked", patient)
    witness = watch_leak(NUM_PIECES if leak is in_pieces_over_several_rounds else 1)
    assert witness.attack(LEAKING, "hidden").share > 0.9
    assert not witness.attack("pi-3", "hidden").is_rebuilt


@pytest.mark.parametrize("leak", [as_float32, as_int8, as_an_exact_sketch])
def test_a_layer_of_seven_values_is_found(leak: Leak, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, in_the_summary(leak))
    assert watch_leak().attack(LEAKING, "middle2").share == 1.0


def test_a_sketch_of_full_width_gives_the_update(monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, in_the_summary(as_a_sketch_of_full_width))
    rebuilt = watch_leak().attack(LEAKING, "hidden")
    assert rebuilt.cosine > 0.5
    assert rebuilt.drift_cosine > 0.5


@pytest.mark.slow
def test_narrow_sketches_with_a_fresh_seed_every_round_add_up_to_the_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, in_the_summary(as_a_sketch_with_a_fresh_seed))
    witness = watch_leak(30)
    rebuilt = witness.attack(LEAKING, "hidden", is_seed_fresh=True)
    assert rebuilt.cosine < 0.5  # of a single round they say little
    assert rebuilt.drift_cosine > 0.5
    assert rebuilt.is_rebuilt


def test_values_that_are_written_as_numbers_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def change(_manifest: ModelManifest, _work: RoundWork, outcome: RoundOutcome) -> RoundOutcome:
        gains = {f"layer{index}": float(value) for index, value in enumerate(outcome.own["hidden"])}
        return outcome._replace(swap_gains=gains)

    plant(monkeypatch, change)
    assert watch_leak().attack(LEAKING, "hidden").share > 0.9


def test_parts_that_nobody_asked_for_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    announce = UploadConversation.announce

    def leaking(self: UploadConversation, now_s: float) -> list[Envelope]:
        parts = [
            Envelope(Address(UPDATE, LEAKING, part.digest, part.index), part)
            for digest, data in self._upload.blobs.items()
            if self._device_id == LEAKING
            for part in split_blob(data, 100, digest)
        ]
        return [*announce(self, now_s), *parts]

    def compose(manifest: ModelManifest, work: RoundWork, outcome: RoundOutcome, *others: Any) -> Generation:
        generation = compose_generation(manifest, work, outcome, *others)
        data = encode_layer(manifest.layer("hidden"), outcome.own["hidden"])
        blobs = {**generation.upload.blobs, content_digest(data): data}
        upload = Upload(generation.upload.summary, blobs, generation.upload.part_bytes)
        return msgspec.structs.replace(generation, upload=upload)

    monkeypatch.setattr(edge_client.upload.UploadConversation, "announce", leaking)
    monkeypatch.setattr(simulations.loopback.device, "compose_generation", compose)
    witness = watch_leak()
    assert witness.attack(LEAKING, "hidden").share > 0.9
    assert not witness.attack("pi-3", "hidden").is_rebuilt


def test_the_aggregator_refuses_a_leak_that_it_can_see(monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, in_the_summary(as_float32))
    witness = watch_leak(2)
    assert [report.refused for report in witness.fleet.aggregator.reports] == [{LEAKING: "wrong-shape"}] * 2
