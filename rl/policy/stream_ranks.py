"""Ranks of a stream of weights: how they are connected, what they say of a bucket, and what an error of theirs is."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from rl.policy.rendezvous import StreamBroken, StreamWrong

WELL, WRONG = 0, 1  # what a rank says of a bucket


class Said:
    """What all ranks say of a bucket, the worst of it; asked for later, so that nobody waits for the slowest."""

    def __init__(self, group: Any) -> None:
        self._group = group
        self._waiting: tuple[Tensor, Any] | None = None

    def put(self, code: int) -> None:
        assert self._waiting is None
        options: Any = dist.AllreduceOptions()
        options.reduceOp = dist.ReduceOp.MAX
        worst = torch.tensor([code], dtype=torch.int64)
        self._waiting = worst, self._group.allreduce([worst], options)

    def wait(self) -> None:
        """Until it is known. Raises StreamBroken where one is bad: every rank stops at the same place."""
        if self._waiting is None:
            return
        worst, work = self._waiting
        self._waiting = None
        work.wait()
        if int(worst) != WELL:
            raise StreamBroken("a rank has refused what came, and says why itself")


@contextmanager
def told(what: str, unless: Callable[[], Exception | None] = lambda: None) -> Iterator[None]:
    """Errors of the transport, and of others' ends, as StreamBroken; ``unless`` this rank has one of its own."""
    began = time.monotonic()
    try:
        yield
    except (StreamWrong, ValueError):
        raise
    except RuntimeError as error:  # gloo, NCCL and the store raise no other kind
        if (own := unless()) is not None:
            raise own from None
        if isinstance(error, StreamBroken):
            raise
        said = str(error).strip().splitlines()[0][:200]
        raise StreamBroken(f"weights could not {what} ({time.monotonic() - began:.1f} s): {said}") from None


def gloo_group(store: Any, rank: int, size: int, host: str, timeout: timedelta) -> Any:
    """Ranks over TCP on the interface of ``host``."""
    gloo: Any = dist.ProcessGroupGloo
    options = gloo._Options()
    options._devices = [gloo.create_device(hostname=host)]
    options._timeout = timeout
    options._threads = 3  # a bucket, its checksums and what is said of the one before wait at once
    return gloo(store, rank, size, options)


def nccl_group(store: Any, rank: int, size: int, timeout: timedelta) -> Any:
    """Ranks with a GPU each."""
    nccl: Any = dist.ProcessGroupNCCL
    options = nccl.Options()
    options._timeout = timeout
    return nccl(store, rank, size, options)
