"""Which numbers of a policy are float32 whatever dtype it computes in, and a copy of a policy in another dtype."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from rl.policy.api import Policy

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def stays_float32(module: nn.Module, name: str) -> bool:
    """Whether the parameter ``name`` is float32 in every engine and every copy of ``module``.

    Models say so by ``_keep_in_fp32_modules_strict`` (transformers' word): module names, dotted or not.
    """
    kept = getattr(module, "_keep_in_fp32_modules_strict", None) or ()
    return any(f".{wanted}." in f".{name}." for wanted in kept)


def cast_copy(policy: Policy, dtype: torch.dtype, share: bool = False) -> Policy:
    """A copy of ``policy`` that computes in ``dtype``; ``share``: parameters that are as they should be are not copied.

    Buffers keep their dtype: RoPE's frequencies and the router's bias are float32 in transformers and in DeepSeek's
    code (rounded to bfloat16, a frequency turns by a wrong angle at position 1,000).
    """
    kept = {name: p for name, p in policy.named_parameters() if stays_float32(policy.module, name)}
    shared = [p for name, p in policy.named_parameters() if name in kept or p.dtype == dtype] if share else []
    memo: dict[int, Any] = {id(p): p for p in shared}
    copied = copy.deepcopy(policy, memo)  # deepcopy takes what its memo holds instead of copying it
    for name, parameter in copied.named_parameters():
        if name not in kept:
            parameter.data = parameter.data.to(dtype)
    return copied


def keep_float32(module: nn.Module) -> None:
    """Make the parameters that stay float32 so again, after ``module`` was made or cast in another dtype."""
    for name, parameter in module.named_parameters():
        if stays_float32(module, name):
            parameter.data = parameter.data.float()
