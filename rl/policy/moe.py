"""DeepSeekMoE: sigmoid router with group-limited choice, routed experts, shared experts.

    s = sigmoid(W_g x)   S = TopK(s + b, limited to the best groups)
    g_i = s_i / sum_{j in S} s_j * scaling      y = sum_{i in S} g_i E_i(x) + shared(x)

The bias b only affects the choice. ``update_bias`` is the aux-loss-free balancing rule (DeepSeek-V3, sec. 2.1.2).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from rl.policy.layers import MLP
from rl.policy.replay import ExpertTap

# Up to this many tokens every expert runs on every token: a few batched launches beat the sorting.
DENSE_TOKENS = 64


class Router(nn.Module):
    """Chooses K experts per token; ``weight`` [E, hidden], bias is a buffer (never trained by gradients)."""

    e_score_correction_bias: Tensor

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.experts, self.top_k = config.n_routed_experts, config.num_experts_per_tok
        self.groups, self.top_groups = config.n_group, config.topk_group
        if self.experts % self.groups or self.experts // self.groups < 2:
            raise ValueError(
                f"n_group is {self.groups} for n_routed_experts {self.experts}; it must divide it and leave "
                "at least 2 experts a group"
            )
        if self.top_groups * (self.experts // self.groups) < self.top_k:
            raise ValueError(
                f"topk_group {self.top_groups} leaves fewer experts than num_experts_per_tok {self.top_k}; "
                "raise topk_group"
            )
        self.normalise, self.scaling = config.norm_topk_prob, config.routed_scaling_factor
        self.weight = nn.Parameter(torch.zeros(self.experts, config.hidden_size))
        self.register_buffer("e_score_correction_bias", torch.zeros(self.experts, dtype=torch.float32))

    def choose(self, scores: Tensor) -> Tensor:
        """int64 [T, K] from scores [T, E]; ties go to the lower expert id."""
        choice = scores + self.e_score_correction_bias
        if self.groups > 1:
            grouped = choice.view(-1, self.groups, self.experts // self.groups)
            pair = grouped if grouped.shape[-1] == 2 else grouped.topk(2, dim=-1).values
            best = pair.sum(-1).topk(self.top_groups, dim=-1, sorted=False).indices
            keep = torch.zeros_like(grouped[..., 0], dtype=torch.bool).scatter_(1, best, True)
            choice = grouped.masked_fill(~keep.unsqueeze(-1), float("-inf")).view(-1, self.experts)
        return choice.topk(self.top_k, dim=-1, sorted=False).indices

    def forward(self, x: Tensor, tap: ExpertTap | None = None) -> tuple[Tensor, Tensor]:
        """gates [T, K] (always live) and experts [T, K], the recorded ones where ``tap`` forces them."""
        scores = F.linear(x.float(), self.weight.float()).sigmoid()
        with torch.no_grad():
            experts = self.choose(scores)
            if tap is not None:
                experts = tap.choose(experts)
        # Gathered from the full scores: a replayed expert that fell out of the live top-k keeps its gradient.
        gates = scores.gather(1, experts)
        if self.normalise:
            gates = gates / (gates.sum(-1, keepdim=True) + 1e-20)
        return gates * self.scaling, experts

    @torch.no_grad()
    def update_bias(self, counts: Tensor, gamma: float) -> None:
        """b_i += gamma for experts below the mean of ``counts`` [E], -= gamma above it."""
        if counts.shape != (self.experts,):
            raise ValueError(f"counts has shape {tuple(counts.shape)}; expected [{self.experts}], tokens per expert")
        load = counts.to(self.e_score_correction_bias)
        self.e_score_correction_bias += gamma * torch.sign(load.mean() - load)


class _GroupedExperts(torch.autograd.Function):
    """sum_k g_k E_k(x): rows sorted by expert, one grouped matmul per projection, no device sync.

    N = T*K rows. Written out by hand because autograd's version of the gathers and of the split
    gate | up tensor makes three times the memory passes.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, gates: Tensor, experts: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
        tokens, k = experts.shape
        inner = down.shape[2]
        flat = experts.reshape(-1)
        order = flat.argsort(stable=True)
        back = torch.empty_like(order)
        back[order] = torch.arange(tokens * k, device=x.device)
        offsets = torch.zeros(down.shape[0], dtype=torch.int32, device=x.device)
        offsets.scatter_add_(0, flat, torch.ones_like(flat, dtype=torch.int32))
        offsets = offsets.cumsum(0, dtype=torch.int32)
        token = order.div(k, rounding_mode="floor")
        rows = x.index_select(0, token)
        weight = gates.reshape(-1, 1).index_select(0, order)
        h = F.grouped_mm(rows, gate_up.transpose(1, 2), offs=offsets)
        act = F.silu(h[:, :inner]).mul_(h[:, inner:])
        y = F.grouped_mm(act * weight, down.transpose(1, 2), offs=offsets)
        ctx.save_for_backward(rows, weight, h, act, back, token, offsets, gate_up, down)
        ctx.k = k
        return y.index_select(0, back).view(tokens, k, -1).sum(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, Tensor, Tensor]:
        rows, weight, h, act, back, token, offsets, gate_up, down = ctx.saved_tensors
        tokens, inner = grad.shape[0], down.shape[2]
        dy = grad.index_select(0, token)
        d_act = F.grouped_mm(dy, down, offs=offsets)  # d(loss)/d(act * weight)
        d_down = F.grouped_mm(dy.t(), act * weight, offs=offsets)
        d_gates = torch.linalg.vecdot(d_act, act).index_select(0, back).view(tokens, ctx.k)
        d_act.mul_(weight)
        gate, up = h[:, :inner], h[:, inner:]
        dh = torch.empty_like(h)
        torch.mul(d_act, F.silu(gate), out=dh[:, inner:])
        torch.ops.aten.silu_backward.grad_input(d_act.mul_(up), gate, grad_input=dh[:, :inner])
        d_gate_up = F.grouped_mm(dh.t(), rows, offs=offsets)
        dx = F.grouped_mm(dh, gate_up, offs=offsets).index_select(0, back).view(tokens, ctx.k, -1).sum(1)
        return dx, d_gates, None, d_gate_up, d_down


_grouped_experts: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor] = _GroupedExperts.apply


class Experts(nn.Module):
    """Routed experts, stacked: gate_up_proj [E, 2I, hidden], down_proj [E, hidden, I]."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.n, self.inner = config.n_routed_experts, config.moe_intermediate_size
        self.invariant = False  # see rl.policy.batch_invariance
        self.gate_up_proj = nn.Parameter(torch.empty(self.n, 2 * self.inner, config.hidden_size))
        self.down_proj = nn.Parameter(torch.empty(self.n, config.hidden_size, self.inner))

    def forward(self, x: Tensor, gates: Tensor, experts: Tensor) -> Tensor:
        """x [T, hidden], gates and experts [T, K] -> [T, hidden]."""
        weights = self.gate_up_proj, self.down_proj
        if self.invariant:  # grouped products have as many rows as tokens chose the expert
            pieces = zip(x.split(DENSE_TOKENS), gates.split(DENSE_TOKENS), experts.split(DENSE_TOKENS), strict=True)
            return torch.cat([_every_expert(*piece, *weights) for piece in pieces])
        return run_experts(x, gates, experts, *weights)


def run_experts(x: Tensor, gates: Tensor, experts: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """sum_k g_k E_k(x): x [T, hidden], gates and experts [T, K], gate_up [E, 2I, hidden], down [E, hidden, I]."""
    if x.shape[0] <= DENSE_TOKENS:
        return _every_expert(x, gates, experts, gate_up, down)
    return _grouped_experts(x, gates.to(x.dtype), experts, gate_up, down)


def _every_expert(x: Tensor, gates: Tensor, experts: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    count, inner = down.shape[0], down.shape[2]
    weights = torch.zeros(x.shape[0], count, dtype=gates.dtype, device=x.device).scatter(1, experts, gates)
    # One product for the gates and ups of all experts: [T, E, 2, I]
    gate, up = F.linear(x, gate_up.flatten(0, 1)).view(len(x), count, 2, inner).unbind(2)
    hidden = F.silu(gate) * up * weights.unsqueeze(-1).to(x.dtype)
    return (hidden.transpose(0, 1) @ down.transpose(1, 2)).sum(0)


class MoE(nn.Module):
    """Router, routed and shared experts; x [T, hidden] -> [T, hidden], and the experts chosen [T, K]."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.gate = Router(config)
        self.experts = Experts(config)
        self.shared_experts = MLP(config.hidden_size, config.moe_intermediate_size * config.n_shared_experts)

    def forward(self, x: Tensor, tap: ExpertTap | None = None) -> tuple[Tensor, Tensor]:
        gates, experts = self.gate(x, tap)
        return self.experts(x, gates, experts) + self.shared_experts(x), experts
