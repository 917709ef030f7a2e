"""Weights from one process to several, bucket by bucket: nobody holds a whole copy of them on the way.

    sender (rank 0):  write bucket k, say its checksums, go on with k + 1 while the others read
    receiver:         read bucket k, take its tensors, compare checksums, say whether all is well

The bytes go through memory that all of them map where they are on one machine, else over gloo (TCP), or NCCL between
GPUs. The sender's checksums are of the tensors that it was given, the receivers' of what has arrived: a tensor that was
left out, is an older one, came in part or the wrong way round is named. Two buckets are on their way at a time.
"""

from __future__ import annotations

import mmap
import os
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C import _distributed_c10d as c10d  # torch.distributed does not export all of it

from rl.policy.checksum import bytes_of, checksum, digest
from rl.policy.meeting import enter_meeting
from rl.policy.rendezvous import Receipt, Rendezvous, StreamBroken, StreamWrong
from rl.policy.weight_plan import Entry, Piece, Plan

SLOTS = 2  # buckets that are on their way
WELL, WRONG = 0, 1  # what a rank says of a bucket


class Taker(Protocol):
    """Who takes what arrives."""

    def begin(self, plan: Plan) -> None:
        """Look at what will come. ValueError: it does not fit, and nothing has changed."""

    def target(self, entry: Entry) -> Tensor | None:
        """Where the bytes of ``entry`` are to be copied as they come; None: ``take`` gets them."""

    def take(self, tensors: list[tuple[Entry, Tensor]]) -> None:
        """Tensors that had no target and have arrived as they were sent; to be copied at once."""


class Link:
    """This process's part in a stream: connected on construction. One thread at a time.

    Args:
        meeting: where the others are.
        rank: 0 sends.
        host: an address of this machine that the others reach.
        device: where buckets lie with NCCL: a GPU that no other rank has.
    Raises:
        StreamBroken: the others did not come in time.
    """

    def __init__(self, meeting: Rendezvous, rank: int, host: str, device: torch.device | None = None) -> None:
        self.key, self.rank, self._size = meeting.key, rank, meeting.size
        self._sent = 0  # streams so far
        self._timeout = timedelta(seconds=meeting.timeout_s)
        self._device = torch.device("cpu") if meeting.way == "gloo" or device is None else device
        self._data: Any = None
        with told("be sent, for the ranks did not meet,"):
            store = enter_meeting(meeting.host, meeting.port, meeting.size, meeting.timeout_s)
            self._store: Any = c10d.PrefixStore(meeting.key, store)
            self._group = _gloo(c10d.PrefixStore("gloo", self._store), rank, meeting.size, host, self._timeout)
            if meeting.way == "nccl":
                self._data = _nccl(c10d.PrefixStore("nccl", self._store), rank, meeting.size, self._timeout)
            size = meeting.bucket_bytes
            shared = self._shared(size) if meeting.way == "gloo" else None
        self.mapped = shared is not None
        if shared is None:
            self._slots = [torch.empty(size, dtype=torch.uint8, device=self._device) for _ in range(SLOTS)]
        else:
            self._slots = list(shared.split(size))

    def send(self, plan: Plan, tensors: Iterator[Tensor]) -> Receipt:
        """Rank 0: ``tensors``, which are those of ``plan``, to all others; asked for one by one.

        Raises StreamBroken: somebody is gone, or has refused.
        """
        said = _Said(self)
        with told("be sent"):
            self._store.set(f"plan {self._sent}", plan.to_json())
            said.put(WELL)
            said.wait(0)  # they take it
            self._store.delete_key(f"plan {self._sent}")
            self._sent += 1
            all_sums = list[int]()
            held = _Held(tensors)
            for number, bucket in enumerate(plan.buckets()):
                said.wait(SLOTS - 1)  # the slot is free again
                slot = self._slots[number % SLOTS]
                ended = []
                for piece in bucket:
                    tensor = held.at(piece.entry)
                    self.write(slot, plan.entries[piece.entry], piece, bytes_of(tensor))
                    if piece.ends:
                        ended.append(checksum(tensor))
                self._broadcast(slot, bucket)
                _send_sums(self._group, ended)
                all_sums += ended
                said.put(WELL)
            said.wait(0)
        return Receipt(plan.version, len(plan.entries), plan.nbytes, digest(all_sums), self.mapped)

    def write(self, slot: Tensor, entry: Entry, piece: Piece, data: Tensor) -> None:
        """Copy ``piece`` of the tensor ``entry``, whose bytes are ``data``, into the bucket ``slot``."""
        slot[piece.at : piece.at + piece.size].copy_(data[piece.first : piece.first + piece.size])

    def receive(self, taker: Taker, version: int) -> Receipt:
        """What the sender sends next, into ``taker``.

        Raises:
            ValueError: it does not fit; nothing has changed.
            StreamWrong: a tensor is not what was sent, or the version is another one. The taker's weights are neither
                the old nor the new ones.
            StreamBroken: the sender or somebody else is gone. As above.
        """
        said = _Said(self)
        with told("be received"):
            plan = Plan.from_json(self._store.get(f"plan {self._sent}"))
            self._sent += 1
        error: Exception | None = None
        try:
            if plan.version != version:
                raise StreamWrong(f"weights of version {plan.version} came, those of version {version} were awaited")
            taker.begin(plan)
        except Exception as refused:
            error = refused
        all_sums: list[int] = []
        with told("be received", unless=lambda: error):
            said.put(WELL if error is None else WRONG)
            said.wait(0)
            parts: dict[int, Tensor] = {}
            for number, bucket in enumerate(plan.buckets()):
                said.wait(SLOTS - 1)
                slot = self._slots[number % SLOTS]
                self._broadcast(slot, bucket)
                wanted = _receive_sums(self._group, sum(piece.ends for piece in bucket))
                if error is None:
                    try:
                        all_sums += self._take(taker, plan, bucket, slot, wanted, parts)
                    except Exception as wrong:
                        error = wrong
                said.put(WELL if error is None else WRONG)
            said.wait(0)
        return Receipt(plan.version, len(plan.entries), plan.nbytes, digest(all_sums), self.mapped)

    def close(self) -> None:
        """Hang up, so that nobody waits for this rank; what is on its way is lost."""
        self._group = self._data = self._store = None

    def _take(
        self, taker: Taker, plan: Plan, bucket: list[Piece], slot: Tensor, wanted: list[int], parts: dict[int, Tensor]
    ) -> list[int]:
        """The tensors that are whole with this bucket, to the taker; their checksums. ``parts``: those that are not."""
        found: list[int] = []
        taken: list[tuple[Entry, Tensor]] = []
        wrong: list[str] = []
        for piece in bucket:
            entry = plan.entries[piece.entry]
            here = slot[piece.at : piece.at + piece.size]
            target = taker.target(entry)
            if target is not None:
                bytes_in_place(target)[piece.first : piece.first + piece.size].copy_(here)
                value = target
            elif piece.ends and not piece.first:
                value = here.view(getattr(torch, entry.dtype)).view(entry.shape)
            else:
                if piece.entry not in parts:
                    parts[piece.entry] = entry.empty(self._device)
                value = parts[piece.entry]
                bytes_in_place(value)[piece.first : piece.first + piece.size].copy_(here)
            if not piece.ends:
                continue
            parts.pop(piece.entry, None)
            found.append(checksum(value))
            if found[-1] != wanted[len(found) - 1]:
                wrong.append(entry.name)
            elif target is None:
                taken.append((entry, value))
        if wrong:
            raise StreamWrong(f"{', '.join(wrong[:5])} ({len(wrong)}): what has arrived is not what was sent")
        if taken:
            taker.take(taken)
        return found

    def _broadcast(self, slot: Tensor, bucket: list[Piece]) -> None:
        if self.mapped:
            return
        used = slot[: bucket[-1].at + bucket[-1].size]
        (self._data or self._group).broadcast(used, 0).wait()
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def _shared(self, size: int) -> Tensor | None:
        """Slots that all ranks map, where all of them are on the sender's machine."""
        memory: mmap.mmap | None = None
        mark, descriptor = b"", -1
        try:
            if self.rank == 0:
                descriptor, mark = os.memfd_create("weights", os.MFD_CLOEXEC), secrets.token_bytes(16)
                os.ftruncate(descriptor, SLOTS * size)
                memory = mmap.mmap(descriptor, SLOTS * size)
                memory[:16] = mark
                self._store.set("memory", f"{machine()} {os.getpid()} {descriptor} {mark.hex()}")
            else:
                where, process, number, text = self._store.get("memory").decode().split()
                mark = bytes.fromhex(text)
                if where == machine():
                    with suppress(OSError, ValueError), open(f"/proc/{process}/fd/{number}", "r+b") as file:
                        memory = mmap.mmap(file.fileno(), SLOTS * size)
            there = torch.tensor([memory is not None and memory[:16] == mark], dtype=torch.int64)
            self._group.allreduce([there], dist.AllreduceOptions()).wait()  # a sum
        finally:
            if descriptor >= 0:  # who has it mapped keeps it; where ranks did not meet, nobody has
                os.close(descriptor)
        if int(there) < self._size or memory is None:
            return None
        return torch.frombuffer(memory, dtype=torch.uint8)


class Links:
    """The connections of this process: the last one is kept for as long as the same ranks meet."""

    def __init__(self) -> None:
        self._link: Link | None = None

    @contextmanager
    def to(self, meeting: Rendezvous, rank: int, host: str, device: torch.device | None = None) -> Iterator[Link]:
        """The link of ``meeting``; dropped when the block ends with an error."""
        if self._link is not None and self._link.key != meeting.key:
            self._link.close()
            self._link = None
        if self._link is None:
            self._link = Link(meeting, rank, host, device)
        try:
            yield self._link
        except BaseException:
            self._link.close()
            self._link = None
            raise


class _Said:
    """What all ranks say of each bucket, the worst of it; asked for later, so that nobody waits for the slowest."""

    def __init__(self, link: Link) -> None:
        self._link, self._waiting = link, deque[tuple[Tensor, Any]]()

    def put(self, code: int) -> None:
        options: Any = dist.AllreduceOptions()
        options.reduceOp = dist.ReduceOp.MAX
        worst = torch.tensor([code], dtype=torch.int64)
        self._waiting.append((worst, self._link._group.allreduce([worst], options)))

    def wait(self, left: int) -> None:
        """Until all but the last ``left`` are known. Raises StreamBroken where one is bad, once all are known: every
        rank stops at the same place."""
        while len(self._waiting) > left:
            worst, work = self._waiting.popleft()
            work.wait()
            if int(worst) != WELL:
                while self._waiting:
                    self._waiting.popleft()[1].wait()
                raise StreamBroken("a rank has refused what came, and says why itself")


def _send_sums(group: Any, sums: list[int]) -> None:
    """Checksums of the tensors that end in a bucket."""
    signed = [value - 2**64 if value >= 2**63 else value for value in sums] or [0]
    group.broadcast(torch.tensor(signed, dtype=torch.int64), 0).wait()


def _receive_sums(group: Any, count: int) -> list[int]:
    sums = torch.zeros(max(count, 1), dtype=torch.int64)
    group.broadcast(sums, 0).wait()
    return [value % 2**64 for value in sums.tolist()[:count]]


class _Held:
    """The one of ``tensors`` that is being sent."""

    def __init__(self, tensors: Iterator[Tensor]) -> None:
        self._next = tensors
        self._at, self._tensor = -1, torch.empty(0)

    def at(self, entry: int) -> Tensor:
        while self._at < entry:
            self._tensor = next(self._next).contiguous()
            self._at += 1
        return self._tensor


def machine() -> str:
    """Names what processes share that can look at each other: a running kernel and its numbers of processes."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + os.readlink("/proc/self/ns/pid")


def bytes_in_place(tensor: Tensor) -> Tensor:
    """uint8 [bytes]: the memory of ``tensor`` itself, which must lie in one piece."""
    assert tensor.is_contiguous()
    return tensor.detach().view(-1).view(torch.uint8)


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


def _gloo(store: Any, rank: int, size: int, host: str, timeout: timedelta) -> Any:
    gloo: Any = dist.ProcessGroupGloo
    options = gloo._Options()
    options._devices = [gloo.create_device(hostname=host)]
    options._timeout = timeout
    options._threads = 2
    return gloo(store, rank, size, options)


def _nccl(store: Any, rank: int, size: int, timeout: timedelta) -> Any:
    nccl: Any = dist.ProcessGroupNCCL
    options = nccl.Options()
    options._timeout = timeout
    return nccl(store, rank, size, options)
