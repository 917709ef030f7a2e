"""On-policy distillation: the policy's distance from a teacher, at the states that it has come to itself.

    K_t = KL(pi_theta(.|s_t) || pi_E(.|s_t)) = sum_v pi_theta(v|s_t) log(pi_theta(v|s_t) / pi_E(v|s_t))      "full"
    K_t = sum_{v in S} pi_theta(v) log(pi_theta(v) / pi_E(v)) + r_theta log(r_theta / r_E)                  "top_k"
    A_t = sg[log pi_E(o_t) - log pi_theta(o_t)], the advantage of the sampled token                        "sampled"

S: the k tokens that pi_theta holds likeliest, r: the mass of all others. So "top_k" is the KL of the two distributions
with those others taken for one token: 0 or more, at most "full" (data processing), equal to it at k = V, and what the
policy gives to the rest learns from what the teacher gives to it. A sum over S alone would be none of these, and could
be lowered by moving mass out of S.

The states are the sampler's and no gradient goes through them: at each the first two are exact in value and gradient,
however stale it is. Both distributions are softmax(logits / temperature) over the *whole* vocabulary, also where
sampling was truncated: the support is the policy's own choice, and what the teacher knows better may lie outside it.
"sampled" is on the sampler's support, as every ratio: only there does the expectation of A_t grad log pi_theta over
what was sampled be the gradient of -KL.

DeepSeek-V4 (arXiv 2606.19348): "full", one teacher a domain. MiMo-V2-Flash: "sampled".
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F

from rl.objective.logprobs import TokenScores


class Lesson(NamedTuple):
    """What a teacher makes of N tokens, float32. ``kl_N``: nats; of the forms "full" and "top_k" with gradient, of
    "sampled" log pi_theta - log pi_E without. Without gradient the teacher's ``entropy_N`` (nats) and ``greedy_N``
    (bool: the sampled token is its arg-max)."""

    kl_N: torch.Tensor
    entropy_N: torch.Tensor
    greedy_N: torch.Tensor


def reverse_kl(logprobs_NV: torch.Tensor, teacher_NV: torch.Tensor, top_k: int | None = None) -> torch.Tensor:
    """K_t of "full", or of "top_k" with ``top_k`` below V, from the log-probs of both. [N], nats."""
    if top_k is None or top_k >= logprobs_NV.shape[-1]:
        return _kl(logprobs_NV, teacher_NV)
    likeliest_Nk = logprobs_NV.detach().topk(top_k, dim=-1).indices
    return _kl(_rest_as_one(logprobs_NV, likeliest_Nk), _rest_as_one(teacher_NV, likeliest_Nk))


def lesson_of_logits(
    logits_NV: torch.Tensor,
    teacher_NV: torch.Tensor,
    targets_N: torch.Tensor,
    temperature: float = 1.0,
    top_k: int | None = None,
) -> Lesson:
    """The forms "full" and "top_k" (``top_k``), from the logits of both; gradient through ``logits_NV`` alone."""
    logprobs_NV = F.log_softmax(logits_NV.float() / temperature, dim=-1)
    with torch.no_grad():
        teacher_NV = F.log_softmax(teacher_NV.float() / temperature, dim=-1)
        entropy_N = -torch.linalg.vecdot(teacher_NV.exp(), teacher_NV)
        greedy_N = teacher_NV.gather(1, targets_N[:, None]).squeeze(1) >= teacher_NV.amax(-1)
    return Lesson(reverse_kl(logprobs_NV, teacher_NV, top_k), entropy_N, greedy_N)


def sampled_lesson(logprobs_N: torch.Tensor, teacher: TokenScores) -> Lesson:
    """The form "sampled": A_t is minus its ``kl_N``. Both on the sampler's support."""
    return Lesson((logprobs_N - teacher.logprobs_N).detach(), teacher.entropy_N, teacher.greedy_N)


def _kl(logprobs_NV: torch.Tensor, other_NV: torch.Tensor) -> torch.Tensor:
    kl_N: torch.Tensor = torch.linalg.vecdot(logprobs_NV.exp(), logprobs_NV - other_NV)
    return kl_N


def _rest_as_one(logprobs_NV: torch.Tensor, kept_Nk: torch.Tensor) -> torch.Tensor:
    """[N, k + 1]: the log-probs of the kept tokens, and the logarithm of the mass of all others. (One minus the kept
    mass would be rounding alone where little is left.)"""
    rest_N = logprobs_NV.scatter(1, kept_Nk, float("-inf")).logsumexp(-1)
    return torch.cat((logprobs_NV.gather(1, kept_Nk), rest_N[:, None]), dim=-1)
