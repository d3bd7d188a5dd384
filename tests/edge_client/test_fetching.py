"""A device follows the topics of what it misses, and no others, and takes only what it asked for."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_client.fetching import PATIENCE_S, Fetching, ProgramFiles, Subscribe, Unsubscribe
from wire.digest import content_digest
from wire.errors import WireError
from wire.manifest import LayerSpec, ModelManifest, ParameterSpec, ProgramFile, encode_manifest
from wire.parts import split_blob
from wire.topics import MODEL, PROGRAM, Address, subscription

BLOB = bytes(range(100))
DIGEST = content_digest(BLOB)
PARTS = split_blob(BLOB, 40)
FILTER = subscription("home", MODEL, digest=DIGEST)


@pytest.fixture
def fetching() -> Fetching:
    waiting = Fetching("home")
    assert waiting.want(MODEL, DIGEST, 100) == [Subscribe(FILTER)]
    return waiting


def address(part: int, digest: str = DIGEST) -> Address:
    return Address(MODEL, digest=digest, part=part)


@given(st.lists(st.binary(min_size=1, max_size=60), min_size=1, max_size=4, unique=True), st.data())
def test_whatever_the_order_every_blob_comes_once_and_its_topic_is_left(
    blobs: list[bytes], data: st.DataObject
) -> None:
    fetching, found = Fetching("home"), []
    for expected in blobs:
        fetching.want(MODEL, content_digest(expected), 60)
    parts = data.draw(st.permutations([part for blob in blobs for part in split_blob(blob, 25)]))
    for part in parts:
        blob, effects = fetching.take(address(part.index, part.digest), part, 0)
        assert effects == ([] if blob is None else [Unsubscribe(subscription("home", MODEL, digest=part.digest))])
        found += [] if blob is None else [blob]
    assert sorted(found) == sorted(blobs)
    assert len(fetching._wanted) == 0


def test_asking_twice_subscribes_once_and_keeps_what_has_come(fetching: Fetching) -> None:
    fetching.take(address(0), PARTS[0], 0)
    assert fetching.want(MODEL, DIGEST, 100) == []
    fetching.take(address(1), PARTS[1], 0)
    assert fetching.take(address(2), PARTS[2], 0) == (BLOB, [Unsubscribe(FILTER)])


def test_what_nobody_asked_for_is_refused(fetching: Fetching) -> None:
    with pytest.raises(WireError, match="unknown-topic"):
        fetching.take(address(0, "d" * 64), PARTS[0], 0)
    with pytest.raises(WireError, match="unknown-topic"):
        fetching.take(Address(PROGRAM, digest=DIGEST), PARTS[0], 0)
    assert len(fetching._wanted) == 1


def test_a_blob_is_refused_a_second_time(fetching: Fetching) -> None:
    for part in PARTS:
        fetching.take(address(part.index), part, 0)
    with pytest.raises(WireError, match="unknown-topic"):
        fetching.take(address(0), PARTS[0], 0)


def test_a_blob_larger_than_expected_is_refused_and_still_wanted() -> None:
    fetching = Fetching("home")
    fetching.want(MODEL, DIGEST, 99)
    with pytest.raises(WireError, match="oversized"):
        fetching.take(address(0), PARTS[0], 0)
    assert len(fetching._wanted) == 1


def test_forgetting_a_route_leaves_its_topics_alone(fetching: Fetching) -> None:
    fetching.want(PROGRAM, "d" * 64, 10)
    assert fetching.forget(MODEL) == [Unsubscribe(FILTER)]
    assert fetching.forget(MODEL) == []
    assert len(fetching._wanted) == 1


def test_after_a_silence_every_missing_topic_is_followed_anew_and_what_has_come_is_kept(fetching: Fetching) -> None:
    assert fetching.tick(100) == []
    fetching.take(address(0), PARTS[0], 110)
    assert fetching.tick(110 + PATIENCE_S - 0.1) == []
    assert fetching.tick(110 + PATIENCE_S) == [Unsubscribe(FILTER), Subscribe(FILTER)]
    assert fetching.tick(110 + PATIENCE_S + 0.1) == []
    fetching.take(address(2), PARTS[2], 130)
    assert fetching.take(address(1), PARTS[1], 131)[0] == BLOB
    assert fetching.tick(1e6) == []


def test_the_manifest_names_the_files_that_the_runtime_needs_and_no_others() -> None:
    digests = {name: content_digest(name.encode()) for name in ("train.onnx", "predict.onnx", "train.pte")}
    listed: Any = {name: ProgramFile(digest, len(name)) for name, digest in digests.items()}
    manifest = encode_manifest(
        ModelManifest("tiny", (LayerSpec("fc1", (ParameterSpec("fc1.weight", (2,)),)),), (2,), 2, listed)
    )
    files = ProgramFiles(".onnx", Fetching("home"))
    model_id = content_digest(manifest)
    assert files.fetch(model_id) == [Subscribe(subscription("home", PROGRAM, digest=model_id))]
    assert not files.are_whole
    wanted = [Subscribe(subscription("home", PROGRAM, digest=digests[name])) for name in ("train.onnx", "predict.onnx")]
    assert files.take(model_id, manifest) == wanted
    assert set(files._expected) == {digests["train.onnx"], digests["predict.onnx"]}
    for name in ("predict.onnx", "train.onnx"):
        assert files.take(digests[name], name.encode()) == []
    assert (files.are_whole, files.are_useless) == (True, False)
    assert set(files.files) == {"manifest.json", "train.onnx", "predict.onnx"}


def test_a_program_without_files_for_the_runtime_is_useless() -> None:
    manifest = encode_manifest(
        ModelManifest("tiny", (LayerSpec("fc1", (ParameterSpec("fc1.weight", (2,)),)),), (2,), 2, {})
    )
    files = ProgramFiles(".pte", Fetching("home"))
    files.fetch(content_digest(manifest))
    assert files.take(content_digest(manifest), manifest) == []
    assert files.are_useless
