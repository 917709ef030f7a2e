"""vLLM's sampler with two changes for RL: the support of truncated sampling, and cheap log-probs.

    support(t) = {v : pi_old(v | ...) > 0} after temperature, top-k, top-p and min-p

is read off the processed log-probs (recipe: Keep Sampling Mask), for any mix of truncations. The rank of
the sampled token, which vLLM also computes (with a kernel it compiles at the first call), is left out:
nobody reads it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from vllm.v1.outputs import LogprobsTensors
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


def install_sampler(runner: Any) -> RecordingSampler:
    """Replace the model runner's sampler by one with the same settings."""
    old = runner.sampler
    sampler = RecordingSampler(old.logprobs_mode, old.use_fp64_gumbel)
    runner.sampler = sampler
    return sampler
