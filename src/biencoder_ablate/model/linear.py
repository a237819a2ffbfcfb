"""x Wᵀ + b by the fastest library at hand. N rows, I width in, O width out."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """F.linear of x (N, I), weight (O, I) and bias (O,); in float32 on the CPU through oneDNN.

    torch itself takes MKL there, which the AMD machines tried run 5 to 15% slower, and more on large outputs.
    """
    plain = torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu")
    onednn = HAS_ONEDNN and x.device.type == "cpu" and x.dtype == torch.float32 and not plain
    return _OneDnnLinear.apply(x, weight, bias) if onednn else F.linear(x, weight, bias)


class _OneDnnLinear(torch.autograd.Function):
    """x (N, I), weight (O, I), bias (O,) or None → (N, O)."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        ctx.has_bias = bias is not None
        return _onednn(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        (gradient,), (x, weight) = gradients, ctx.saved_tensors
        of_bias = gradient.sum(0) if ctx.has_bias else None
        return _onednn(gradient, weight.t(), None), gradient.t() @ x, of_bias


def _onednn(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
