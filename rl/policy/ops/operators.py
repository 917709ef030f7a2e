"""Which code computes index scores, attention over chosen rows and the scores of targets: torch's, or Triton kernels.

``learner.ops`` chooses once, for all of them; what cannot run where it is asked for is an error, never another path.
The torch functions are the reference that the kernels are tested against.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from rl.policy.sparse import GATHER_FROM, NEG_INF, gathered_attention, index_scores

SCORE_TILE = 1 << 20  # floats of per-head index scores at a time (see ``rl.policy.sparse.GATHER_TILE``)
FUSED_SCORE_TILE = 1 << 25  # floats of index scores at a time where heads are summed inside: 128 MiB


@dataclass(frozen=True)
class Operators:
    """``name`` is that of the switch, ``where`` what came of it.

    ``index_scores`` (index_q [Q, Hi, di], index_w [Q, Hi], index_k [S, di]) -> [Q, S], as ``rl.policy.sparse``'s.
    ``causal_scores``: the same of the last Q of S tokens, -inf for rows after the query.
    ``gathered_attention`` (query [Q, H, C+R], rows [S, C+R], indices [Q, k], scale, C) -> [Q, H, C] or wider: what lies
    behind the latents means nothing.
    ``head_scores``: see ``head_kernels``. None: the policy's head makes logits, ``rl.objective.logprobs`` scores them.
    ``fused``: no index scores per head are made; ``score_tile`` floats of them at a time. ``gather_from``: from which
    length on queries gather their rows.
    """

    name: str
    where: str
    index_scores: Callable[[Tensor, Tensor, Tensor], Tensor]
    causal_scores: Callable[[Tensor, Tensor, Tensor], Tensor]
    gathered_attention: Callable[[Tensor, Tensor, Tensor, float, int], Tensor]
    head_scores: Callable[[Tensor, Tensor, Tensor, float, Tensor | None], tuple[Tensor, Tensor, Tensor]] | None
    gather_from: int
    score_tile: int
    fused: bool


def causal_scores(index_q: Tensor, index_w: Tensor, index_k: Tensor) -> Tensor:
    """I [Q, S] of the last Q of S tokens, -inf for rows after the query: only the last Q can be."""
    scores = index_scores(index_q, index_w, index_k)
    last = scores[:, len(index_k) - len(index_q) :]
    last.masked_fill_(torch.ones_like(last, dtype=torch.bool).triu_(1), NEG_INF)
    return scores


def _gathered(query: Tensor, rows: Tensor, indices: Tensor, scale: float, latent_dim: int) -> Tensor:
    return gathered_attention(query, rows, indices, scale)


TORCH = Operators(
    "torch", "torch", index_scores, causal_scores, _gathered, None,
    gather_from=GATHER_FROM, score_tile=SCORE_TILE, fused=False,
)  # fmt: skip


def choose_operators(name: str, device: torch.device) -> Operators:
    """The operators ``name``, "torch" or "triton", for a policy on ``device``.

    Raises ValueError for "triton" without the package, and on a CPU unless the environment had TRITON_INTERPRET=1
    when the process began: kernels are then interpreted, thousands of times as slow, to check what they compute.
    """
    if name == "torch":
        return TORCH
    if name != "triton":
        raise ValueError(f"learner.ops={name}: must be torch or triton")
    try:
        import triton

        from rl.policy.ops import launch
    except ImportError as error:
        raise ValueError(f"learner.ops=triton: {error}; install triton, or use learner.ops=torch") from error
    if device.type != "cuda" and not launch.INTERPRETED:
        raise ValueError(
            f"learner.ops=triton: the policy is on the {device.type}, and Triton compiles for a CUDA device; use "
            "learner.ops=torch, or start with TRITON_INTERPRET=1 to have the kernels interpreted, which is very slow"
        )
    where = "in its interpreter (TRITON_INTERPRET=1)" if launch.INTERPRETED else torch.cuda.get_device_name(device)
    return _triton(f"triton {triton.__version__}, {where}")


def _triton(where: str) -> Operators:
    from rl.policy.ops import gathered_kernels, head_kernels, index_kernels

    def all_rows(index_q: Tensor, index_w: Tensor, index_k: Tensor) -> Tensor:
        low = torch.zeros(len(index_q), dtype=torch.int64, device=index_q.device)
        return index_kernels.index_scores(index_q, index_w, index_k, low, torch.full_like(low, len(index_k)))

    def causal(index_q: Tensor, index_w: Tensor, index_k: Tensor) -> Tensor:
        low = torch.zeros(len(index_q), dtype=torch.int64, device=index_q.device)
        high = torch.arange(len(index_k) - len(index_q), len(index_k), device=index_q.device) + 1
        return index_kernels.index_scores(index_q, index_w, index_k, low, high)

    return Operators(
        "triton", where, all_rows, causal, gathered_kernels.gathered_attention, head_kernels.head_scores,
        gather_from=0, score_tile=FUSED_SCORE_TILE, fused=True,
    )  # fmt: skip
