"""Masks of dropouts: reproducible, of the right shape, and true to their probability."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_client.masks import draw_masks
from simulations.loopback.numpy_program import perceptron_manifest
from wire.manifest import MaskSpec, ModelManifest


def manifest_with(*masks: MaskSpec) -> ModelManifest:
    return msgspec.structs.replace(perceptron_manifest([4, 3]), masks=masks or msgspec.UNSET)


@given(
    shape=st.lists(st.integers(1, 5), min_size=1, max_size=3).map(tuple),
    probability=st.floats(1e-9, 1 - 1e-6),
    examples=st.integers(1, 9),
)
def test_a_mask_holds_zeros_and_what_keeps_the_mean(shape: tuple[int, ...], probability: float, examples: int) -> None:
    (mask,) = draw_masks(manifest_with(MaskSpec(shape, probability)), "step", examples)
    assert mask.shape == (examples, *shape)
    assert mask.dtype == np.float32
    assert set(np.unique(mask)) <= {np.float32(0), np.float32(1) / np.float32(1 - probability)}


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.8])
def test_as_many_values_are_dropped_as_asked_for(probability: float) -> None:
    (mask,) = draw_masks(manifest_with(MaskSpec((100,), probability)), "step", 1000)
    assert (mask == 0).mean() == pytest.approx(probability, abs=0.005)
    assert mask.mean() == pytest.approx(1, abs=0.02)


def test_the_same_step_draws_the_same_and_another_step_or_mask_others() -> None:
    manifest = manifest_with(MaskSpec((50,), 0.5), MaskSpec((50,), 0.5))
    first, again, other = (draw_masks(manifest, label, 4) for label in ("a", "a", "b"))
    np.testing.assert_array_equal(first, again)
    assert (first[0] != first[1]).any()
    assert (first[0] != other[0]).any()


def test_a_program_without_dropout_has_no_masks() -> None:
    assert draw_masks(manifest_with(), "step", 4) == ()


def test_the_words_are_those_of_the_protocol() -> None:
    (mask,) = draw_masks(manifest_with(MaskSpec((6,), 0.5)), "golden", 1)
    assert mask.tolist() == [[2.0, 2.0, 0.0, 0.0, 0.0, 2.0]]
