"""Small shared layers: RMSNorm, rotary embeddings in both layouts, the gated MLP.

RoPE (V3.2's released code): MLA rotates INTERLEAVED pairs (x0,x1),(x2,x3)...; V3.2's indexer rotates HALF-SPLIT
pairs (x0,x_{d/2})..., GLM-5's interleaved ones. Mixing them up keeps outputs coherent and silently ruins long-context
retrieval.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class _RMSNormFunction(torch.autograd.Function):
    """RMSNorm in few memory passes: the composite form costs a quarter of a small model's step on CPU.

    LayerNorm's fused backward with mean 0 and rstd = r gives r*(gw - mean(gw) - xhat*mean(gw*xhat));
    RMSNorm lacks the middle term, so it is added back (gw = grad * weight, xhat = x * r).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        normed, r = _normed(x, weight, eps)
        ctx.save_for_backward(x, weight, r)
        return normed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, r = ctx.saved_tensors
        dim = x.shape[-1]
        dx, dw, _ = torch.ops.aten.native_layer_norm_backward(
            grad, x, [dim], torch.zeros_like(r), r, weight, None, [True, True, False]
        )
        dx.addcmul_(r, (grad @ weight).unsqueeze(-1), value=1.0 / dim)
        return dx, dw, None


def _normed(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """RMSNorm of x [..., d], and 1 / RMS [..., 1]."""
    norm: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    r = norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
    return (x * r).mul_(weight), r


_rms_norm: Callable[[Tensor, Tensor, float], Tensor] = _RMSNormFunction.apply


def weight_of(linear: nn.Module) -> Tensor:
    """The weight [out, in] that ``linear`` multiplies by, for code that uses it in another way than by calling it.

    Where a LoRA adapter of peft is in the place of a layer, its ``weight`` is the base's alone.
    """
    weight = linear.weight
    assert isinstance(weight, Tensor)
    layer: Any = linear
    if hasattr(layer, "get_delta_weight") and not layer.disable_adapters:
        for adapter in layer.active_adapters:
            weight = weight + layer.get_delta_weight(adapter)
    return weight


class RMSNorm(nn.Module):
    """y = weight * x / sqrt(mean(x^2) + eps), statistics in fp32."""

    def __init__(self, dim: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        if not torch.is_grad_enabled():  # a custom function costs as much as a third of its kernels
            return _normed(x.float(), self.weight.float(), self.eps)[0].to(x.dtype)
        return _rms_norm(x.float(), self.weight.float(), self.eps).to(x.dtype)


class Rotary(nn.Module):
    """cos and sin [T, d/2] of positions [T]; frequencies by ``config.rope_parameters`` (default or YaRN)."""

    inv_freq: Tensor

    def __init__(self, config: Any) -> None:
        super().__init__()
        params = config.rope_parameters
        with torch.device("cpu"):  # the same bits everywhere; and the meta device would load torch's compiler for it
            if params.get("rope_type", "default") == "default":
                dim = config.qk_rope_head_dim
                inv_freq = 1.0 / params["rope_theta"] ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim)
                self.factor = 1.0
            else:
                from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

                inv_freq, self.factor = ROPE_INIT_FUNCTIONS[params["rope_type"]](config)
        self.register_buffer("inv_freq", inv_freq.to(torch.get_default_device()), persistent=False)

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        angles = positions.unsqueeze(-1).float() * self.inv_freq.float()
        return angles.cos() * self.factor, angles.sin() * self.factor


def softmax_scale(config: Any) -> float:
    """(d_nope + d_rope)^-0.5 * m^2; under YaRN m = 0.1 * mscale_all_dim * ln(factor) + 1 (DeepSeek-V3's code)."""
    scale: float = float(config.qk_nope_head_dim + config.qk_rope_head_dim) ** -0.5
    params = config.rope_parameters
    all_dim = params.get("mscale_all_dim", 0)
    if params.get("rope_type", "default") != "default" and all_dim and params["factor"] > 1:
        scale *= (0.1 * all_dim * math.log(params["factor"]) + 1.0) ** 2
    return scale


def turns(cos: Tensor, sin: Tensor) -> Tensor:
    """cos + i sin, complex64 [T, d/2]: what the functions below rotate by."""
    return torch.complex(cos.float(), sin.float())


def rope_interleaved(x: Tensor, turn: Tensor) -> Tensor:
    """Rotate pairs (x0,x1),(x2,x3)... of x [T, ..., d] in place of each pair: (x0 + i x1) * turn [T, d/2]."""
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * _align(x, turn)).flatten(-2).to(x.dtype)


def rope_half_split(x: Tensor, turn: Tensor) -> Tensor:
    """Rotate pairs (x0,x_{d/2})... of the FIRST d = 2*turn.shape[-1] dims of x [T, ...]; the rest passes through."""
    half = turn.shape[-1]
    first, second, rest = x.split([half, half, x.shape[-1] - 2 * half], dim=-1)
    turned = torch.view_as_real(torch.complex(first.float(), second.float()) * _align(x, turn))
    return torch.cat([turned[..., 0].to(x.dtype), turned[..., 1].to(x.dtype), rest], dim=-1)


def rope_pairs(x: Tensor, turn: Tensor) -> Tensor:
    """``rope_interleaved`` on the FIRST 2*turn.shape[-1] dims of x [T, ...]; the rest passes through."""
    turned = 2 * turn.shape[-1]
    return torch.cat([rope_interleaved(x[..., :turned], turn), x[..., turned:]], dim=-1)


def _align(x: Tensor, table: Tensor) -> Tensor:
    return table.view(table.shape[0], *([1] * (x.dim() - 2)), table.shape[-1])


class MLP(nn.Module):
    """down(silu(gate(x)) * up(x)); x [T, hidden]."""

    def __init__(self, hidden: int, inner: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden, inner, bias=False)
        self.up_proj = nn.Linear(hidden, inner, bias=False)
        self.down_proj = nn.Linear(inner, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return y
