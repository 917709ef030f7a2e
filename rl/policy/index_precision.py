"""In which precision the indexer compares: as computed, or by 8-bit integers with a scale per row, a power of two.

    code = clamp(round(x / scale), -127, 127)      scale = 2^e, so that the row's largest |code| is 64 to 127

V3.2's indexer runs in FP8 (block scales that are powers of two too). Here an engine keeps a key as ``index_head_dim``
bytes and its scale, a quarter of its float32, and the learner rounds queries and keys alike: with such scales sums of
products are exact in float32, in any order, so that both sides see the same products whatever computes them.

``index_precision`` in a policy's config.json says which; a policy without it is not rounded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from rl.policy.supported import INDEX_PRECISION

MOST = 127  # the largest code
ZERO = 128  # the byte of code 0 where bytes have no sign
EXPONENT, ONE = 0x7F800000, 1 << 23  # of a float32: the bits of its exponent, and 1 of them


def rounds(config: Any) -> bool:
    """Whether the indexer of the policy with this configuration compares 8-bit integers."""
    return getattr(config, INDEX_PRECISION, None) == "int8"


def rounded(x: Tensor) -> Tensor:
    """[..., d], of the same dtype, what its codes and scale stand for; the gradient passes as if nothing was rounded.

    Rows with NaN or infinity become NaN. What is rounded already stays as it is.
    """
    return _straight_through(x)


def encode(x: Tensor) -> tuple[Tensor, Tensor]:
    """Codes, integers as float32 [..., d], and scales float32 [..., 1] of rows [..., d]."""
    x = x.float()
    largest = x.abs().amax(-1, keepdim=True)
    bits = largest.view(torch.int32) & EXPONENT
    scale = (bits - 6 * ONE).clamp_min_(ONE).view(torch.float32)
    scale = torch.where(bits == EXPONENT, torch.nan, scale)
    return (x / scale).round_().clamp_(-MOST, MOST), scale


class _Rounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        codes, scale = encode(x)
        return (codes * scale).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


_straight_through: Callable[[Tensor], Tensor] = _Rounded.apply
