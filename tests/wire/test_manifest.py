"""A manifest survives its file; one that lies about names or sizes is refused before anything is allocated."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wire.errors import ManifestError
from wire.manifest import LayerSpec, ModelManifest, ParameterSpec, ProgramFile, decode_manifest, encode_manifest

NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
SHAPES = st.lists(st.integers(1, 5), max_size=8).map(tuple)
FILES = st.builds(ProgramFile, st.from_regex(r"^[0-9a-f]{64}\Z"), st.integers(1, 2**31 - 1))


@st.composite
def manifests(draw: st.DrawFn) -> ModelManifest:
    layer_names = draw(st.lists(NAMES, min_size=1, max_size=4, unique=True))
    counts = [draw(st.integers(1, 3)) for _ in layer_names]
    names = iter(draw(st.lists(NAMES, min_size=sum(counts), max_size=sum(counts), unique=True)))
    layers = tuple(
        LayerSpec(layer, tuple(ParameterSpec(next(names), draw(SHAPES)) for _ in range(count)))
        for layer, count in zip(layer_names, counts, strict=True)
    )
    files = draw(st.dictionaries(st.sampled_from(["train.onnx", "predict.onnx", "train.pte", "predict.pte"]), FILES))
    return ModelManifest(draw(NAMES), layers, draw(SHAPES), draw(st.integers(1, 1000)), files)


def fields(**changes: Any) -> bytes:
    """The bytes of a good manifest with some fields changed."""
    layer = {"name": "fc1", "parameters": [{"name": "fc1.weight", "shape": [2, 3]}]}
    good = {"model": "tiny", "layers": [layer], "input_shape": [3], "num_classes": 2, "files": {}, "version": 1}
    return json.dumps(good | changes).encode()


def layer(name: str = "fc1", parameter: str = "fc1.weight", shape: tuple[int, ...] = (2, 3)) -> dict[str, Any]:
    return {"name": name, "parameters": [{"name": parameter, "shape": shape}]}


@given(manifests())
def test_a_manifest_survives_its_file(manifest: ModelManifest) -> None:
    assert decode_manifest(encode_manifest(manifest)) == manifest
    assert encode_manifest(decode_manifest(encode_manifest(manifest))) == encode_manifest(manifest)


@given(manifests())
def test_layers_and_parameters_are_counted_and_found(manifest: ModelManifest) -> None:
    for name in manifest.layer_names:
        assert manifest.layer(name).name == name
    assert sum(spec.num_params for spec in manifest.layers) == sum(it.num_values for it in manifest.parameters)
    with pytest.raises(ManifestError, match="has no layer"):
        manifest.layer("no such layer at all")


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        b"[]",
        b"{}",
        b"[" * 100_000,
        b'{"model": "\xff"}',
        fields()[:-1],
        fields(version=2),
        fields(version="1"),
        fields(model=""),
        fields(model="x" * 201),
        fields(layers=[]),
        fields(layers=[layer(), layer(parameter="other")]),
        fields(layers=[layer(), layer("fc2")]),
        fields(layers=[{"name": "fc1", "parameters": []}]),
        fields(layers=[layer("")]),
        fields(layers=[layer(str(i), str(i)) for i in range(4097)]),
        fields(layers=[layer(shape=(0,))]),
        fields(layers=[layer(shape=(-1, -1))]),
        fields(layers=[layer(shape=(2**31,))]),
        fields(layers=[layer(shape=(2**63,))]),
        fields(layers=[layer(shape=(1,) * 9)]),
        fields(layers=[layer(shape=(2**31 - 1,) * 8)]),
        fields(layers=[layer(shape=(2**28 + 1,))]),
        fields(input_shape=[1.5]),
        fields(num_classes=0),
        fields(num_classes=10**400),
        fields(files={"../../evil.sh": {"sha256": "a" * 64, "size_bytes": 1}}),
        fields(files={"train.onnx": {"sha256": "a" * 64 + "\n", "size_bytes": 1}}),
        fields(files={"train.onnx": {"sha256": "a" * 64, "size_bytes": 0}}),
        fields(color="green"),
    ],
    ids=range(30),
)
def test_a_broken_or_hostile_manifest_is_refused_without_memory(broken: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(ManifestError):
            decode_manifest(broken)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 16 * 2**20


@given(
    st.binary(max_size=100)
    | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(lambda it: json.dumps(it).encode())
)
def test_arbitrary_bytes_raise_nothing_but_a_manifest_error(data: bytes) -> None:
    with pytest.raises(ManifestError):
        decode_manifest(data)
