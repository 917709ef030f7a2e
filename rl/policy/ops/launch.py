"""What every Triton kernel here needs to know of the place where it runs."""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"
from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor
from triton.runtime.interpreter import InterpretedFunction

# Of every program: with four, ptxas spills registers of most kernels at V3.2's sizes, with eight of few (sm_90).
WARPS = {"num_warps": 8}
TYPES = {"torch.float32": tl.float32, "torch.bfloat16": tl.bfloat16, "torch.float16": tl.float16}


@triton.jit
def _probe(x):
    tl.store(x, 1.0)


INTERPRETED = isinstance(_probe, InterpretedFunction) and isinstance(tl.sum, InterpretedFunction)


def dot_type(x: Tensor) -> tl.dtype:
    """What ``x`` is multiplied in: its own dtype, for tensor cores; Triton's interpreter multiplies float32 alone (it
    keeps bfloat16 as 16-bit integers, and a product of those is nonsense)."""
    return tl.float32 if INTERPRETED else TYPES[str(x.dtype)]


def power_of_two(size: int, least: int = 16) -> int:
    """The width of a block that holds ``size``; tensor cores want 16 at least."""
    return max(least, int(triton.next_power_of_2(size)))
