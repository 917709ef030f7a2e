"""A policy whose weights are split over processes, by torch's FSDP2 (``fully_shard``; Zhao et al. 2023).

    rank r keeps 1/n of every weight, its gradient and its optimiser state; a layer is whole while it runs

Weights are float32 where they rest. A layer is gathered in the dtype that computes, and its gradient is summed over the
ranks in float32. Every rank has to make the same passes in the same order; what differs is the tokens.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from rl.policy.api import Policy
from rl.policy.dtypes import stays_float32
from rl.policy.expert_parallel import expert_modules, spread

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


@dataclass(frozen=True)
class Meshes:
    """What the weights of a policy are split over.

    ``weights``: (shards), or (replicas, shards) for several copies (HSDP). ``experts``: the same ranks as (replicas,
    rest, experts), when the experts of a layer are spread: over its last dimension by expert, over "rest" by rows.
    """

    weights: DeviceMesh
    experts: DeviceMesh | None = None


ENTRY = "hidden"  # the method of a policy's module that a pass begins with


def shard(policy: Policy, meshes: Meshes, dtype: torch.dtype, offload: bool = False) -> None:
    """Split the weights of ``policy`` over ``meshes``, in place; parameters become DTensors, buffers stay whole.

    ``offload``: shards rest in the host's memory. Each rank calls it with the same weights.
    """
    from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
    from torch.distributed.tensor import Shard

    computes = None if dtype == torch.float32 else dtype
    how: dict[str, Any] = {"mesh": meshes.weights}
    if offload:
        how["offload_policy"] = CPUOffloadPolicy()

    def wrap(module: nn.Module, dtype: torch.dtype | None = computes, **other: Any) -> None:
        # What a layer is given has its dtype already; FSDP would copy the taps to cast what is in them.
        precision = MixedPrecisionPolicy(dtype, torch.float32, cast_forward_inputs=False)
        fully_shard(module, **(how | other), mp_policy=precision)

    if computes is not None:
        for name, child in policy.module.named_modules():
            if any(True for _ in child.parameters(recurse=False)) and stays_float32(policy.module, f"{name}.weight"):
                wrap(child, None)
    if meshes.experts is not None:
        spread_over = meshes.experts["experts"]
        rest = meshes.experts["rest"] if meshes.experts.size(0) == 1 else meshes.experts["replicas", "rest"]
        found = expert_modules(policy.module)
        if not found:
            raise ValueError(f"learner.expert_parallel={spread_over.size()}: this policy has no experts; use 1")
        for experts in found:
            spread(experts, spread_over)
            wrap(experts, mesh=rest, shard_placement_fn=lambda _: Shard(1))
            # An expert has the rows of all ranks that share it: its gradient is a sum over them already.
            experts.set_gradient_divide_factor(float(meshes.weights.size()))  # type: ignore[operator]
            # gloo cannot divide on the way; where there is no way, torch would divide twice.
            experts.set_force_sum_reduction_for_comms(meshes.experts.size(1) > 1)  # type: ignore[operator]
    for layer in policy.layers:
        wrap(layer)
    wrap(policy.module)
    register_fsdp_forward_method(policy.module, ENTRY)


def empty_copy(policy: Policy) -> Policy:
    """A copy of ``policy`` whose parameters are on the meta device: it costs no memory, and says what to fill in."""
    memo: dict[int, Any] = {
        id(p): nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=p.requires_grad)
        for p in policy.module.parameters()
    }
    return copy.deepcopy(policy, memo)  # deepcopy takes what its memo holds instead of copying it


def filled(empty: Policy, state: Mapping[str, Tensor]) -> Policy:
    """A copy of ``empty`` (``empty_copy``) that holds the tensors ``state``, by the names of its state dict; the others
    stay on the meta device."""
    policy = copy.deepcopy(empty)
    unknown = policy.module.load_state_dict(dict(state), strict=False, assign=True).unexpected_keys
    assert not unknown, unknown
    return policy


@torch.no_grad()
def sharded_from_first(
    empty: Policy, whole: Policy | None, meshes: Meshes, dtype: torch.dtype, device: torch.device, offload: bool
) -> Policy:
    """``whole``, which the first rank has and the others (None) need not, sharded over ``meshes``; tensor by
    tensor."""
    policy = copy.deepcopy(empty)
    shard(policy, meshes, dtype, offload)
    policy.module.to_empty(device=torch.device("cpu") if offload else device)
    given = {} if whole is None else {**dict(whole.module.named_parameters()), **dict(whole.module.named_buffers())}
    for name, value in (*policy.module.named_parameters(), *policy.module.named_buffers()):
        put(value, given.get(name, value))  # the others' own say the shape alone
    return policy


@torch.no_grad()
def sharded_copy(
    empty: Policy, source: Policy, meshes: Meshes, dtype: torch.dtype, device: torch.device, offload: bool = False
) -> Policy:
    """``source``, which is sharded over ``meshes``, once more in another ``dtype``: each rank copies its own shards."""
    policy = copy.deepcopy(empty)
    buffers = dict(source.module.named_buffers())
    shard(policy, meshes, dtype, offload)
    policy.module.to_empty(device=torch.device("cpu") if offload else device)
    for name, value in policy.module.named_parameters():
        local(value).copy_(local(source.module.get_parameter(name)))
    for name, buffer in policy.module.named_buffers():
        buffer.copy_(buffers[name])
    return policy


@torch.no_grad()
def gather(
    named: Mapping[str, Tensor], keep: bool = True, dtypes: Mapping[str, torch.dtype] | None = None
) -> dict[str, Tensor]:
    """The whole tensors of ``named``, on the host, one after the other; every rank of the mesh calls it.

    ``keep=False``: takes part, and returns nothing. ``dtypes``: of each, cast before it is sent. A tensor of two names
    is one tensor here too.
    """
    found: dict[str, Tensor] = {}
    names: dict[int, str] = {}  # by where a tensor is: the name that it was met by first
    for name, value in named.items():
        held = local(value)
        first = names.setdefault(held.data_ptr() if held.numel() else id(value), name)
        if first == name:
            full = whole(value if dtypes is None else value.to(dtypes[name]))
            if keep:
                found[name] = full.detach().to("cpu", copy=True)
        elif keep:
            found[name] = found[first]
    return found


def reshard(policy: Policy) -> None:
    """After a pass without a backward pass: drop the weights that it has left gathered. Those who ask for the policy's
    parameters would get them instead of the shards, and the next pass would see them instead of new ones."""
    if splits(policy.module):
        policy.module.reshard()  # type: ignore[operator]


def splits(module: nn.Module) -> bool:
    """Whether the weights of ``module`` are split over ranks: all of them have to make as many passes through it."""
    import torch.distributed

    if not torch.distributed.is_available():
        return False
    from torch.distributed.fsdp import FSDPModule

    return isinstance(module, FSDPModule)


def is_sharded(value: Tensor) -> bool:
    """Whether ``value`` is a DTensor."""
    return hasattr(value, "full_tensor")


def mesh_of(value: Tensor) -> DeviceMesh | None:
    """What ``value`` is split over; None where it is not sharded."""
    return value.device_mesh if is_sharded(value) else None  # type: ignore[attr-defined]


def local(value: Tensor) -> Tensor:
    """The part of ``value`` that this rank holds; all of it where it is not sharded."""
    return value.to_local().detach() if is_sharded(value) else value.detach()  # type: ignore[attr-defined]


def whole(value: Tensor) -> Tensor:
    """All of ``value``, wherever it is; collective where it is sharded."""
    full: Tensor = value.full_tensor() if is_sharded(value) else value  # type: ignore[attr-defined]
    return full


@torch.no_grad()
def put(value: Tensor, full: Tensor) -> None:
    """Copy ``full`` into ``value``, of which each rank may hold a shard; of ranks the first one's ``full`` counts."""
    if is_sharded(value):
        local(value).copy_(local(_split(full, value)))
        return
    if not full.is_meta:
        value.copy_(full)
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        dist.broadcast(value, 0)


def _split(full: Tensor, like: Any) -> Tensor:
    """The first rank's ``full``, sharded as ``like`` is; the others' is not read, and may be on the meta device."""
    import torch.distributed as dist
    from torch.distributed.tensor import distribute_tensor

    first = dist.get_rank() == 0
    own = full.to(like.device) if first else torch.empty(full.shape, dtype=full.dtype, device=like.device)
    return distribute_tensor(own, like.device_mesh, like.placements)
