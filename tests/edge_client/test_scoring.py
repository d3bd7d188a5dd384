"""A device measures each loss as torch does, and accuracy as people expect it."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from edge_client.scoring import LARGEST_LOSS, Score
from simulations.loopback.numpy_program import perceptron_manifest
from wire.manifest import Loss, ModelManifest
from wire.messages import Measurement

TORCH = {
    "cross-entropy": lambda logits, targets: functional.cross_entropy(logits.movedim(-1, 1), targets),
    "binary-cross-entropy": functional.binary_cross_entropy_with_logits,
    "mse": functional.mse_loss,
    "huber": functional.huber_loss,
}


def manifest_of(loss: Loss, positions: tuple[int, ...] = (), num_classes: int = 3) -> ModelManifest:
    manifest = perceptron_manifest([4, num_classes])
    return msgspec.structs.replace(manifest, loss=loss, positions=positions or msgspec.UNSET)


def score(manifest: ModelManifest, logits: np.ndarray, targets: np.ndarray, batch: int = 4) -> Measurement:
    found = Score(manifest, targets)
    for start in range(0, len(targets), batch):
        found.add(logits[start : start + batch], targets[start : start + batch])
    return found.measurement()


def draw_targets(manifest: ModelManifest, examples: int, rng: np.random.Generator) -> np.ndarray:
    shape = (examples, *manifest.target_shape)
    if manifest.has_classes:
        return rng.integers(0, manifest.num_classes, shape)
    drawn = rng.random(shape) if manifest.loss == "binary-cross-entropy" else rng.normal(size=shape)
    return drawn.astype(np.float32)


@given(
    loss=st.sampled_from(sorted(TORCH)),
    positions=st.sampled_from([(), (5,), (2, 3)]),
    examples=st.integers(1, 11),
    seed=st.integers(0, 100),
)
def test_the_mean_loss_is_torchs(loss: Loss, positions: tuple[int, ...], examples: int, seed: int) -> None:
    manifest, rng = manifest_of(loss, positions), np.random.default_rng(seed)
    logits = rng.normal(size=(examples, *manifest.output_shape)).astype(np.float32)
    targets = draw_targets(manifest, examples, rng)
    expected = TORCH[loss](torch.from_numpy(logits), torch.from_numpy(targets)).item()
    found = score(manifest, logits, targets)
    assert found.loss == pytest.approx(expected, rel=1e-5)
    assert 0 <= found.accuracy <= 1
    assert found.num_examples == examples


def test_accuracy_is_the_share_of_right_classes_over_all_positions() -> None:
    logits = np.eye(3, dtype=np.float32)[np.array([[0, 1], [2, 2]])]
    assert score(manifest_of("cross-entropy", (2,)), logits, np.array([[0, 1], [0, 2]])).accuracy == 0.75


def test_accuracy_of_labels_is_the_share_of_right_ones() -> None:
    logits = np.array([[2, -1, 3], [-1, -1, 1]], np.float32)
    assert score(
        manifest_of("binary-cross-entropy"), logits, np.array([[1, 0, 0], [0, 0, 1]], np.float32)
    ).accuracy == (pytest.approx(5 / 6))


@pytest.mark.parametrize("loss", ["mse", "huber"])
def test_accuracy_of_values_is_the_share_of_variance_that_is_explained(loss: Loss) -> None:
    manifest, rng = manifest_of(loss), np.random.default_rng(0)
    targets = rng.normal(size=(50, 3)).astype(np.float32)
    assert score(manifest, targets, targets).accuracy == 1
    assert score(manifest, np.broadcast_to(targets.mean(axis=0), (50, 3)), targets).accuracy == pytest.approx(
        0, abs=1e-6
    )
    assert score(manifest, -targets, targets).accuracy == 0, "worse than the mean is 0, not below"
    noisy = targets + rng.normal(size=targets.shape) * 0.5
    expected = 1 - np.square(noisy - targets).sum() / np.square(targets - targets.mean(axis=0)).sum()
    assert score(manifest, noisy, targets).accuracy == pytest.approx(expected)


def test_accuracy_of_constant_values_is_one_if_they_are_met() -> None:
    targets = np.ones((4, 3), np.float32)
    assert score(manifest_of("mse"), targets, targets).accuracy == 1
    assert score(manifest_of("mse"), targets * 2, targets).accuracy == 0


@pytest.mark.parametrize("loss", sorted(TORCH))
@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf, 1e30])
def test_a_diverged_model_has_the_largest_loss_and_is_wrong(loss: Loss, wrong: float) -> None:
    manifest, rng = manifest_of(loss), np.random.default_rng(1)
    targets = draw_targets(manifest, 6, rng)
    if manifest.has_classes:
        targets[:] = 1
    logits = np.zeros((6, 3), np.float32)
    logits[:, 0] = wrong
    found = score(manifest, logits, targets)
    assert 0 <= found.loss <= LARGEST_LOSS
    assert 0 <= found.accuracy <= 1
    if loss in {"mse", "huber"} or math.isnan(wrong):
        assert found.loss == LARGEST_LOSS
