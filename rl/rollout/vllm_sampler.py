"""vLLM's sampler with changes for RL: the support of truncated sampling, cheap log-probs, and noise by counting.

    support(t) = {v : pi_old(v | ...) > 0} after temperature, top-k, top-p and min-p

is read off the processed log-probs (recipe: Keep Sampling Mask), for any mix of truncations. The rank of
the sampled token, which vLLM also computes (with a kernel it compiles at the first call), is left out:
nobody reads it.

``CounterNoise``: token n of a request is drawn with noise that is a function of the request's seed and of n, so it does
not depend on what was sampled beside it or before it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from vllm.v1.outputs import LogprobsTensors
from vllm.v1.sample.ops.topk_topp_sampler import TopKTopPSampler, apply_top_k_top_p
from vllm.v1.sample.sampler import Sampler


class RecordingSampler(Sampler):
    """Keeps the kept-token mask of the last step while any request truncates (``truncated_requests`` > 0)."""

    truncated_requests = 0
    _kept: torch.Tensor | None = None

    def sample(self, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
        sampled, processed = super().sample(*args, **kwargs)
        self._kept = processed.isfinite() if self.truncated_requests and processed is not None else None
        return sampled, processed

    def support(self, row: int) -> np.ndarray:
        """Kept token ids (int32, ascending) of one row of the last step's batch."""
        if self._kept is None:
            raise RuntimeError("no kept-token mask: truncated_requests was 0 in the last step")
        return self._kept[row].nonzero().squeeze(1).to(torch.int32).numpy()

    @staticmethod
    def gather_logprobs(logprobs: torch.Tensor, num_logprobs: int, token_ids: torch.Tensor) -> LogprobsTensors:
        """Log-prob of the given token per row; ``num_logprobs`` (of other tokens) must be 0."""
        if num_logprobs != 0:
            raise ValueError(f"num_logprobs={num_logprobs}: this engine returns the sampled token's log-prob only")
        ids = token_ids.unsqueeze(-1)
        ranks = torch.zeros(len(token_ids), dtype=torch.int32, device=logprobs.device)
        return LogprobsTensors(ids.to(torch.int32), logprobs.gather(-1, ids), ranks)


class CounterNoise(TopKTopPSampler):
    """Draws one token a row: argmax of log-prob + Gumbel noise, after top-k and top-p.

    Args:
        place_of: request id → (seed, tokens it has), of every request in the runner's batch.
    """

    def __init__(self, runner: Any, place_of: Callable[[str], tuple[int, int]]) -> None:
        super().__init__(runner.sampler.logprobs_mode)
        self._runner, self._place_of = runner, place_of

    def forward_cpu(
        self, logits: torch.Tensor, generators: Any, k: torch.Tensor | None, p: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        logits = apply_top_k_top_p(logits, k, p)
        ids = self._runner.input_batch.req_ids[: len(logits)]
        seeds = torch.tensor([mixed(*self._place_of(name)) for name in ids], dtype=torch.long)
        drawn = torch.ops._C.fused_gumbel_argmax(logits.float(), seeds)
        return drawn, logits.log_softmax(dim=-1, dtype=torch.float32)


def mixed(seed: int, counter: int) -> int:
    """A 63-bit number for (seed, counter): the output function of SplitMix64, applied to both in turn."""
    return _splitmix(_splitmix(seed) ^ counter) >> 1


def _splitmix(x: int) -> int:
    x = (x + 0x9E3779B97F4A7C15) % 2**64
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ x >> 27) * 0x94D049BB133111EB % 2**64
    return x ^ x >> 31


def install_sampler(runner: Any, place_of: Callable[[str], tuple[int, int]] | None = None) -> RecordingSampler:
    """Replace the model runner's sampler by one with the same settings; with ``place_of`` its noise is counted."""
    old = runner.sampler
    sampler = RecordingSampler(old.logprobs_mode, old.use_fp64_gumbel)
    if place_of is not None:
        sampler.topk_topp_sampler = CounterNoise(runner, place_of)
    runner.sampler = sampler
    return sampler
