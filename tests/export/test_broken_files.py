"""A broken .pte is refused, or it runs; it never ends the process of the device, even if the manifest vouches for it."""

from __future__ import annotations

import hashlib
import shutil
import struct
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_client.executorch_method import LoadMethod
from edge_client.executorch_program import load_executorch_program
from edge_client.native.building import build_library
from edge_client.native.probe import probe
from tests.edge_client.native.compiled import load_natively
from wire.errors import ManifestError, ProgramError
from wire.manifest import ModelManifest, ProgramFile

if TYPE_CHECKING:
    from tests.export.conftest import Exported

Exporter = Callable[[str], "Exported"]
Break = Callable[[bytes], bytes]

pytestmark = pytest.mark.slow

places = st.floats(0, 1, exclude_max=True)
"""Where in a file, whatever its length."""

words = st.sampled_from([0, 1, 2, 3, 16, 64, 255, 65535, 2**31 - 1, 2**31, 2**32 - 1]) | st.integers(0, 2000)


def truncated(place: float) -> Break:
    return lambda data: data[: int(place * len(data))]


def overwritten(place: float, new: bytes) -> Break:
    def write(data: bytes) -> bytes:
        start = int(place * len(data))
        return data[:start] + new[: len(data) - start] + data[start + len(new) :]

    return write


def with_other_words(changes: list[tuple[float, int]]) -> Break:
    """Offsets, sizes and indices are words of four bytes."""

    def write(data: bytes) -> bytes:
        broken = bytearray(data)
        for place, word in changes:
            struct.pack_into("<I", broken, int(place * (len(data) // 4)) * 4, word)
        return bytes(broken)

    return write


def with_flipped_bits(places: list[tuple[float, int]]) -> Break:
    def flip(data: bytes) -> bytes:
        broken = bytearray(data)
        for place, bit in places:
            broken[int(place * len(data))] ^= 1 << bit
        return bytes(broken)

    return flip


def with_one_byte_moved(place: float, by: int) -> Break:
    """The file's structure stays whole where this hits a value."""

    def move(data: bytes) -> bytes:
        broken = bytearray(data)
        index = int(place * len(data))
        broken[index] = (broken[index] + by) % 256
        return bytes(broken)

    return move


breaks = st.one_of(
    st.builds(with_one_byte_moved, places, st.sampled_from([1, -1, 2, -2, 4, 16])),
    st.builds(with_one_byte_moved, places, st.sampled_from([1, -1, 2, -2, 4, 16])),
    st.builds(truncated, places),
    st.builds(overwritten, places, st.binary(min_size=1, max_size=256)),
    st.builds(overwritten, places, st.integers(1, 256).map(bytes)),
    st.builds(with_other_words, st.lists(st.tuples(places, words), min_size=1, max_size=3)),
    st.builds(with_flipped_bits, st.lists(st.tuples(places, st.integers(0, 7)), min_size=1, max_size=8)),
    st.binary(max_size=200).map(lambda garbage: lambda _: garbage),
)


def vouched(manifest: ModelManifest, name: str, data: bytes) -> ModelManifest:
    file = ProgramFile(hashlib.sha256(data).hexdigest(), len(data))
    return msgspec.structs.replace(manifest, files={**manifest.files, name: file})


def batch_of(manifest: ModelManifest) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    params = {it.name: generator.normal(0, 0.1, it.shape).astype(np.float32) for it in manifest.parameters}
    return params, generator.normal(size=(7, *manifest.input_shape)).astype(np.float32), np.arange(7)


def test_a_broken_file_is_refused_or_runs(exported: Exporter, tmp_path_factory: pytest.TempPathFactory) -> None:
    model, outcomes = exported("watch-cnn"), Counter[str]()
    load, folder = load_natively(), shutil.copytree(model.folder, tmp_path_factory.mktemp("broken") / "program")

    @settings(max_examples=120)
    @given(name=st.sampled_from(["train.pte", "predict.pte"]), break_it=breaks)
    def attempt(name: str, break_it: Break) -> None:
        good = (model.folder / name).read_bytes()
        broken = break_it(good)
        (folder / name).write_bytes(broken)
        try:
            outcomes[run(folder, vouched(model.report.manifest, name, broken), load)] += 1
        finally:
            (folder / name).write_bytes(good)

    attempt()
    assert outcomes["refused"] > 60


def run(folder: Path, manifest: ModelManifest, load: LoadMethod) -> str:
    """Load the program and train; what is raised besides the two errors is a failure."""
    params, inputs, targets = batch_of(manifest)
    try:
        program = load_executorch_program(folder, manifest, load)
        program.train_step(params, inputs, targets)
        program.predict(params, inputs)
    except (ManifestError, ProgramError):
        return "refused"
    return "ran"


CRASHES = 5
"""So many broken files that end a process are enough to look at."""


def test_a_file_that_ends_the_helper_is_refused_with_the_reason(exported: Exporter) -> None:
    load_natively()
    library, good = build_library(), (exported("watch-cnn").folder / "predict.pte").read_bytes()
    generator, said = np.random.default_rng(0), list[str]()
    while len(said) < CRASHES:
        changes = [(float(generator.random()), int(generator.integers(0, 200))) for _ in range(2)]
        try:
            probe(library, with_other_words(changes)(good), num_batched=1)
        except ProgramError as error:
            if "ends the process" in str(error):
                said.append(str(error))
    assert all("SIGSEGV" in line or "SIGABRT: In function " in line for line in said), said


def test_a_helper_that_takes_too_long_is_killed(exported: Exporter) -> None:
    load_natively()
    library, good = build_library(), (exported("watch-cnn").folder / "train.pte").read_bytes()
    started_s = time.monotonic()
    with pytest.raises(ProgramError, match=r"it did not run within 0.01 s"):
        probe(library, good, num_batched=2, limit_s=0.01)
    assert time.monotonic() - started_s < 5
    probe(library, good, num_batched=2)


@pytest.mark.parametrize(
    ("data", "reason"), [(b"", "Error::"), (b"no program" * 20, "Program identifier"), (bytes(1000), "Error::")]
)
def test_what_is_no_program_is_refused_with_the_runtimes_reason(data: bytes, reason: str) -> None:
    load = load_natively()
    with pytest.raises(ProgramError, match=reason):
        load(data, 1)


def test_a_method_refuses_what_it_does_not_take(exported: Exporter) -> None:
    load = load_natively()
    method = load((exported("watch-cnn").folder / "predict.pte").read_bytes(), 1)
    *params, inputs = [np.zeros(shape, np.float32) for shape, _ in method.inputs]
    assert method.run([*params, inputs[:5]])[0].shape == (5, 7)
    with pytest.raises(ProgramError, match="it takes 11 arrays, not 10"):
        method.run(params)
    with pytest.raises(ProgramError, match=r"input 11 is float64 \(64, 6, 100\), expected is float32 within"):
        method.run([*params, inputs.astype(np.float64)])
    with pytest.raises(ProgramError, match="NotSupported"):
        method.run([*params, np.zeros((65, 6, 100), np.float32)])
    assert method.run([*params, inputs])[0].shape == (64, 7)
