"""Log-probabilities of sampled tokens under the policy, on the sampler's own support.

    log pi_theta(a) = z_a - logsumexp_{j in S} z_j,     z = logits / temperature

S is the set of token ids that the sampler kept at that position (top-p / top-k / min-p), or the whole
vocabulary. Keep Sampling Mask: without it the ratio at equal weights is Z_S < 1 instead of 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F


def check_sampler_logprobs(logprobs: Any, name: str) -> None:
    """Raise ValueError when the sampler's log-probs of ``name`` (a trajectory) cannot be pi_old.

    Without them the ratio, the KL and the off-policy mask would silently do nothing. ``logprobs``: those of the
    sampled tokens (array-like); None, NaN or a probability above 1 is an error.
    """
    fix = "the engine must return the log-prob of every sampled token (processed_logprobs in vLLM)"
    if logprobs is None:
        raise ValueError(f"{name}: sampler log-probs are missing (None); {fix}")
    values = np.asarray(logprobs, dtype=np.float64)
    if bad := int(np.isnan(values).sum()):
        raise ValueError(f"{name}: {bad} of {values.size} sampler log-probs are NaN; {fix}")
    # float32 sums may end a rounding error above 0
    if values.size and values.max() > 1e-4:
        raise ValueError(
            f"{name}: a sampler log-prob is {values.max():g}, a probability above 1; {fix}, as natural log"
        )


def support_mask(support_N: Sequence[np.ndarray | None], targets_N: torch.Tensor, vocab: int) -> torch.Tensor | None:
    """bool [N, V], True where the sampler could have drawn the token; None when no row was truncated.

    The sampled token is always kept: engines draw the nucleus boundary differently by one token.
    """
    if all(kept is None for kept in support_N):
        return None
    mask = torch.zeros(len(support_N), vocab, dtype=torch.bool, device="cpu")  # a row at a time: then once over
    for row, kept in enumerate(support_N):
        if kept is None:
            mask[row] = True
        else:
            mask[row, torch.from_numpy(np.asarray(kept, dtype=np.int64))] = True
    mask = mask.to(targets_N.device)
    return mask.scatter_(1, targets_N[:, None], True)


def support_bits(support_N: Sequence[np.ndarray | None], targets_N: torch.Tensor, vocab: int) -> torch.Tensor | None:
    """``support_mask`` in an eighth of its memory: uint8 [N, ceil(V / 8)], token v is bit v % 8 of byte v // 8."""
    if all(kept is None for kept in support_N):
        return None
    bits = np.full((len(support_N), -(-vocab // 8)), 255, dtype=np.uint8)
    for row, (kept, target) in enumerate(zip(support_N, targets_N.tolist(), strict=True)):
        if kept is not None:
            words = np.append(np.asarray(kept, dtype=np.int64), target)
            bits[row] = 0
            np.bitwise_or.at(bits[row], words // 8, np.left_shift(1, words % 8).astype(np.uint8))
    return torch.from_numpy(bits).to(targets_N.device)


class TokenScores(NamedTuple):
    """Per target token: ``logprobs_N`` float32, natural log, with gradient; without gradient ``entropy_N``
    (nats, of the distribution sampled from: temperature and support applied) and ``greedy_N`` (bool: the
    target is the arg-max)."""

    logprobs_N: torch.Tensor
    entropy_N: torch.Tensor
    greedy_N: torch.Tensor


def scores_of_logits(
    logits_NV: torch.Tensor,
    targets_N: torch.Tensor,
    temperature: float = 1.0,
    mask_NV: torch.Tensor | None = None,
) -> TokenScores:
    """Scores of ``targets_N`` under ``softmax(logits / temperature)`` restricted to ``mask_NV``."""
    z_NV = logits_NV.float()
    if temperature != 1.0:
        z_NV = z_NV / temperature
    if mask_NV is not None:
        z_NV = z_NV.masked_fill(~mask_NV, float("-inf"))
    logprobs_NV = F.log_softmax(z_NV, dim=-1)
    logprobs_N = logprobs_NV.gather(1, targets_N[:, None]).squeeze(1)
    with torch.no_grad():
        flat = logprobs_NV.detach()
        # 0 * -inf outside the support is 0 by definition
        terms = flat if mask_NV is None else flat.masked_fill(~mask_NV, 0.0)
        entropy_N = -torch.linalg.vecdot(flat.exp(), terms)
        greedy_N = logprobs_N.detach() >= flat.amax(-1)
    return TokenScores(logprobs_N, entropy_N, greedy_N)
