"""The processes that train one policy together, seen from one of them.

    mesh (replicas, shards):   each of ``replicas`` copies of the weights is split over ``shards`` ranks;
    with the experts of a layer spread over ``experts`` ranks, the same ranks are (replicas, shards / experts, experts)
    with each micro-batch split over ``context`` ranks, they are (size / context, context)

Collective calls (``sum``, ``gather``) are made by every rank, in the same order. A rank that dies ends those of the
others with an error, at the latest after ``timeout_s``.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import Store  # torch.distributed does not export its type
from torch.distributed.device_mesh import init_device_mesh

from rl.policy.context_parallel import ContextGroup
from rl.policy.meeting import interface_of
from rl.policy.sharding import Meshes

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


@dataclass(frozen=True)
class Place:
    """Which of ``size`` ranks a process is. ``shards``: ranks that split one copy of the weights, a divisor;
    ``experts``: ranks that the experts of a layer are spread over, a divisor of that; ``context``: ranks that share
    each micro-batch, a divisor of ``size``."""

    rank: int
    size: int
    shards: int
    experts: int = 1
    context: int = 1


class Ranks:
    """This process's part in a group that has met (``rl.policy.meeting``)."""

    def __init__(self, place: Place, store: Store, host: str, timeout_s: float) -> None:
        """``host``: address of this machine that the others reach; gloo listens on its interface alone."""
        self.rank, self.size, self.shards = place.rank, place.size, place.shards
        cuda = torch.cuda.is_available()
        os.environ["GLOO_SOCKET_IFNAME"] = interface_of(host)
        if cuda:
            os.environ.setdefault("NCCL_SOCKET_IFNAME", interface_of(host))
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if cuda else "gloo",
            store=store, rank=place.rank, world_size=place.size, timeout=timedelta(seconds=timeout_s),
        )  # fmt: skip
        shape = (place.size // place.shards, place.shards)
        names = ("replicas", "shards")
        device = "cuda" if cuda else "cpu"
        self.device = torch.device(device)
        if shape[0] == 1:
            weights = init_device_mesh(device, shape[1:], mesh_dim_names=names[1:])
        else:
            weights = init_device_mesh(device, shape, mesh_dim_names=names)
        experts: DeviceMesh | None = None
        if place.experts > 1:
            split = (shape[0], place.shards // place.experts, place.experts)
            experts = init_device_mesh(device, split, mesh_dim_names=("replicas", "rest", "experts"))
        self.meshes = Meshes(weights, experts)
        self.context: ContextGroup | None = None
        if place.context > 1:
            rows = (place.size // place.context, place.context)
            share = init_device_mesh(device, rows, mesh_dim_names=("batches", "context"))["context"]
            self.context = ContextGroup(share.get_local_rank(), place.context, share.get_group())
        # For what goes on beside the training: calls in another thread must not come between those of this one.
        self.background = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout_s))
        self.beside = self.gather(socket.gethostname()).count(socket.gethostname())  # ranks on this machine

    def sum(self, values: Sequence[float]) -> list[float]:
        """Each of ``values`` summed over the ranks, in float64."""
        total = torch.tensor(list(values), dtype=torch.float64)
        dist.all_reduce(total)
        summed: list[float] = total.tolist()
        return summed

    def gather(self, value: Any, group: dist.ProcessGroup | None = None) -> list[Any]:
        """``value`` of every rank, in the order of the ranks; picklable. ``group``: ``background``, in its thread."""
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=group)
        return values
