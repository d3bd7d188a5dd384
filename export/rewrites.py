"""Which operators are rewritten for which runtime."""

from __future__ import annotations

import torch

from export.convolution import convolution, convolution_backward, convolution_backward_natively
from export.joint_graph import Rewrites
from export.pooling import max_pool, max_pool_backward

__all__ = ["EXECUTORCH", "ONNX"]

aten = torch.ops.aten


def add_product(
    bias: torch.Tensor, left: torch.Tensor, right: torch.Tensor, beta: float = 1, alpha: float = 1
) -> torch.Tensor:
    """Return ``aten.addmm`` as a product and a sum: ExecuTorch's own is 40 times slower."""
    if (beta, alpha) != (1, 1):
        return NotImplemented
    return torch.mm(left, right) + bias


def mask_by_sign(smaller, greater): return (smaller-greater).sign()+1
def mask_by_comparison(smaller, greater): return (smaller>=greater).to(smaller.dtype)
def threshold_by_sign(g,x,t):
    return g*torch.relu(x).sign()
def threshold_by_comparison(g,x,t):
    return g*(x>t).to(g.dtype)
import functools
EXECUTORCH: Rewrites = {
    aten.max_pool2d_with_indices.default: max_pool,
    aten.max_pool2d_with_indices_backward.default: functools.partial(max_pool_backward,mask=mask_by_sign),
    aten.threshold_backward.default: threshold_by_sign,
    aten.addmm.default: add_product,
    aten.convolution.default: convolution,
    aten.convolution_backward.default: convolution_backward,
}

ONNX: Rewrites = {
    aten.max_pool2d_with_indices.default: max_pool,
    aten.max_pool2d_with_indices_backward.default: functools.partial(max_pool_backward,mask=mask_by_comparison),
    aten.threshold_backward.default: threshold_by_comparison,
 aten.convolution_backward.default: convolution_backward_natively}
