"""What replaces torch's functions while a model is traced gives what they give."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from export.stateful import PureFunctions, evaluating, masked_dropouts, pure_functions, without_counters
from wire.errors import ExportError


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize(("masked", "is_causal"), [("", False), ("floats", False), ("booleans", False), ("", True)])
def test_attention_without_dropout_is_torchs_with_its_gradients(masked: str, *, is_causal: bool) -> None:
    query, key, value = (draw(2, 3, 5, 4, seed=seed) for seed in range(3))
    above = torch.triu(torch.ones(5, 5, dtype=torch.bool), 1)
    mask = {"floats": torch.zeros(5, 5, dtype=torch.float64).masked_fill(above, -torch.inf), "booleans": ~above}
    arguments = (query, key, value, mask.get(masked), 0.0, is_causal)
    expected = functional.scaled_dot_product_attention(*arguments)
    with masked_dropouts(PureFunctions({}, [])):
        found = functional.scaled_dot_product_attention(*arguments)
    torch.testing.assert_close(found, expected)
    for ours, theirs in zip(
        *(torch.autograd.grad(result.square().sum(), (query, key, value)) for result in (found, expected)), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


def test_attention_with_dropout_multiplies_its_weights_by_the_mask() -> None:
    query, key, value = (draw(2, 3, 5, 4, seed=seed) for seed in range(3))
    keep_all, keep_none = torch.ones(2, 3, 5, 5), torch.zeros(2, 3, 5, 5)
    with masked_dropouts(PureFunctions({}, [keep_all, keep_none])):
        whole = functional.scaled_dot_product_attention(query, key, value, dropout_p=0.5)
        none = functional.scaled_dot_product_attention(query, key, value, dropout_p=0.5)
        with pytest.raises(ExportError, match="attention with dropout takes an attn_mask of floats"):
            functional.scaled_dot_product_attention(query, key, value, dropout_p=0.5, is_causal=True)
    torch.testing.assert_close(whole, functional.scaled_dot_product_attention(query, key, value))
    assert not none.any()


@pytest.mark.parametrize(("norm", "shape"), [(nn.BatchNorm1d, (7, 4)), (nn.BatchNorm2d, (3, 4, 5, 2))])
@pytest.mark.parametrize("affine", [True, False])
def test_batch_norm_is_torchs_with_its_gradients_and_running_statistics(
    norm: type[nn.BatchNorm1d | nn.BatchNorm2d], shape: tuple[int, ...], *, affine: bool
) -> None:
    module, x = norm(4, momentum=0.3, affine=affine).double(), draw(*shape)
    assert module.running_mean is not None
    assert module.running_var is not None
    names = {module.running_mean: "mean", module.running_var: "var"}
    with pure_functions(names) as pure, without_counters(module):
        found = module(x)
        twice = dict(pure.statistics)
        module(x)
    assert not module.running_mean.any(), "nothing is written where it lies"
    expected = module(x)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(twice, {"mean": module.running_mean, "var": module.running_var})
    ours, theirs = (torch.autograd.grad(result.pow(3).sum(), x)[0] for result in (found, expected))
    torch.testing.assert_close(ours, theirs)
    module(x)
    torch.testing.assert_close(pure.statistics["mean"], module.running_mean)
    assert module.num_batches_tracked == 2
    with evaluating(module):
        expected = module(x)
        with pure_functions({}):
            torch.testing.assert_close(module(x), expected)
    assert module.training


def test_a_single_value_has_no_variance_and_no_gradient() -> None:
    module, x = nn.BatchNorm1d(4).double(), draw(1, 4)
    assert module.running_mean is not None
    assert module.running_var is not None
    with pure_functions({module.running_mean: "mean", module.running_var: "var"}) as pure, without_counters(module):
        found = module(x)
    assert torch.isfinite(found).all()
    torch.testing.assert_close(pure.statistics["var"], torch.full((4,), 0.9, dtype=torch.float64))
    assert not torch.autograd.grad(found.sum(), x)[0].any()


def test_a_dropout_of_channels_takes_a_mask_of_channels() -> None:
    x, mask = draw(2, 3, 4, 4), torch.tensor([[2.0, 0, 2], [0, 2, 2]]).reshape(2, 3, 1, 1)
    pure = PureFunctions({}, [mask])
    with masked_dropouts(pure):
        found = nn.Dropout2d(0.5)(x)
    torch.testing.assert_close(found, x * mask)
    assert pure.dropped == [(torch.Size([2, 3, 1, 1]), 0.5)]
    with masked_dropouts(PureFunctions({}, [])), evaluating(drop := nn.Dropout(0.5)):
        assert drop(x) is x
