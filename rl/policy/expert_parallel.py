"""Experts of a layer spread over ranks (expert parallelism: GShard, Lepikhin et al. 2020; DeepSeek-V3, sec. 3.2.2).

    rank r of W keeps the experts [r E/W, (r+1) E/W).  A token's row goes to every rank that has one of its experts
    (all-to-all), E_i(x) is computed there and comes back, and the gates weigh it:  y = sum_k g_k E_k(x)

No rank ever holds all experts of a layer. All ranks have to make the same passes through it, as with any sharded layer.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from rl.policy.moe import Experts, run_experts

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

STACKED = ("gate_up_proj", "down_proj")  # [E, 2I, hidden] and [E, hidden, I], in our model and in those of transformers


def expert_modules(module: nn.Module) -> list[nn.Module]:
    """Those that hold the stacked experts of a layer; [] in a dense model."""
    return [m for m in module.modules() if all(getattr(getattr(m, name, None), "ndim", 0) == 3 for name in STACKED)]


def spread(experts: nn.Module, mesh: DeviceMesh) -> None:
    """Of the stacked ``experts`` keep this rank's share of the 1-D ``mesh``, in place: parameters become DTensors that
    are split by expert, and a pass sends rows. Raises ValueError when they cannot be dealt out evenly."""
    from torch.distributed.tensor import DTensor, Shard

    ranks = mesh.size()
    for name in STACKED:
        whole = getattr(experts, name)
        if whole.shape[0] % ranks:
            raise ValueError(f"learner.expert_parallel={ranks}: must divide the {whole.shape[0]} experts of a layer")
        each = whole.shape[0] // ranks
        own = whole.detach().narrow(0, mesh.get_local_rank() * each, each).clone()
        split = DTensor.from_local(own, mesh, [Shard(0)], run_check=False)
        setattr(experts, name, nn.Parameter(split, requires_grad=whole.requires_grad))
    run = partial(_forward, experts, mesh.get_group(), mesh.get_local_rank(), ranks)
    # Ours is called with (x, gates, experts), those of transformers with (x, experts, gates).
    experts.forward = run if isinstance(experts, Experts) else lambda x, chosen, gates: run(x, gates, chosen)


def _forward(module: Any, group: Any, rank: int, ranks: int, x: Tensor, gates: Tensor, experts: Tensor) -> Tensor:
    """x [T, hidden], gates and experts [T, K] of this rank's tokens -> [T, hidden]."""
    import torch.distributed as dist

    gate_up, down = (getattr(module, name).to_local() for name in STACKED)
    tokens, k = experts.shape
    flat = experts.reshape(-1)
    order = flat.argsort(stable=True)  # rows by expert, and so by rank
    back = torch.empty_like(order)
    back[order] = torch.arange(tokens * k, device=order.device)
    sends = torch.bincount(flat.div(len(gate_up), rounding_mode="floor"), minlength=ranks)
    takes = torch.empty_like(sends)
    dist.all_to_all_single(takes, sends, group=group)
    to, come = sends.tolist(), takes.tolist()
    chosen = flat.new_empty(sum(come))
    dist.all_to_all_single(chosen, flat[order], come, to, group=group)
    rows = _exchange(x.index_select(0, order.div(k, rounding_mode="floor")), come, to, group)
    own = (chosen - rank * len(gate_up)).unsqueeze(1)
    done = run_experts(rows, torch.ones_like(own, dtype=x.dtype), own, gate_up, down)
    y = _exchange(done, to, come, group).index_select(0, back).view(tokens, k, -1)
    return (y * gates.to(y.dtype).unsqueeze(-1)).sum(1)


class _Exchange(torch.autograd.Function):
    """Rows to other ranks, and their gradients back."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, takes: list[int], gives: list[int], group: Any) -> Tensor:
        import torch.distributed as dist

        ctx.how = (gives, takes, group)
        taken = rows.new_empty(sum(takes), *rows.shape[1:])
        dist.all_to_all_single(taken, rows.contiguous(), takes, gives, group=group)
        return taken

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        return _exchange(grad, *ctx.how), None, None, None


_exchange: Callable[[Tensor, list[int], list[int], Any], Tensor] = _Exchange.apply
