"""Weights from one process to several, bucket by bucket: nobody holds a whole copy of them on the way.

    sender (rank 0):  write bucket k, say its checksums, go on with k + 1 while the others read
    receiver:         read bucket k while k + 1 is on its way, compare checksums, say whether all is well

The bytes go through memory that all of them map where they are on one machine, else over gloo (TCP), or NCCL between
GPUs. The sender's checksums are of the tensors that it was given, the receivers' of what has arrived: a tensor that was
left out, is an older one, came in part or the wrong way round is named. Both are taken while the bytes are copied, as
long as they are in the cache. Two buckets are on their way at a time, and all ranks ask for what they do together in
one order: bucket 0, bucket 1, what they say of 0, bucket 2, what they say of 1, …
"""

from __future__ import annotations

import mmap
import os
import secrets
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C import _distributed_c10d as c10d  # torch.distributed does not export all of it

from rl.policy.checksum import Running, Sums, bytes_of, digest
from rl.policy.meeting import enter_meeting
from rl.policy.rendezvous import Receipt, Rendezvous, StreamWrong
from rl.policy.stream_ranks import WELL, WRONG, Said, gloo_group, nccl_group, told
from rl.policy.weight_plan import Entry, Piece, Plan

SLOTS = 2  # buckets that are on their way


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
            self._group = gloo_group(c10d.PrefixStore("gloo", self._store), rank, meeting.size, host, self._timeout)
            if meeting.way == "nccl":
                self._data = nccl_group(c10d.PrefixStore("nccl", self._store), rank, meeting.size, self._timeout)
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
        said = Said(self._group)
        with told("be sent"):
            self._store.set(f"plan {self._sent}", plan.to_json())
            said.put(WELL)
            said.wait()  # they take it
            self._store.delete_key(f"plan {self._sent}")
            self._sent += 1
            all_sums, on_way = list[int](), deque[list[Any]]()
            held, running = _Held(tensors), Sums(plan.nbytes)
            for number, bucket in enumerate(plan.buckets()):
                said.wait()  # the slot is free again
                if len(on_way) == SLOTS:
                    self._end(on_way.popleft())
                slot = self._slots[number % SLOTS]
                sums = self._fill(slot, plan, bucket, held, running)
                on_way.append([*self._begin_data(slot, bucket), self._begin_sums(_padded(sums, len(bucket)))])
                all_sums += sums
                if number:
                    said.put(WELL)  # of the bucket before
            said.wait()
            if on_way:
                said.put(WELL)
                said.wait()
            for works in on_way:
                self._end(works)
        return Receipt(plan.version, len(plan.entries), plan.nbytes, digest(all_sums), self.mapped)

    def _fill(self, slot: Tensor, plan: Plan, bucket: list[Piece], held: _Held, running: Sums) -> list[int]:
        """Write ``bucket`` into ``slot``; the checksums of the tensors that end in it."""
        ended = []
        for piece in bucket:
            entry, data = plan.entries[piece.entry], held.bytes_of(piece.entry)
            own = running.of(piece.entry, data.numel(), data.device)
            self.write(slot, entry, piece, data, own)
            if piece.ends:
                ended.append(running.end(piece.entry))
        return ended

    def write(self, slot: Tensor, entry: Entry, piece: Piece, data: Tensor, own: Running) -> None:
        """Copy ``piece`` of the tensor ``entry``, whose bytes are ``data``, into the bucket ``slot``, and add it to its
        checksum."""
        own.sent(data[piece.first : piece.first + piece.size], slot[piece.at : piece.at + piece.size])

    def receive(self, taker: Taker, version: int) -> Receipt:
        """What the sender sends next, into ``taker``.

        Raises:
            ValueError: it does not fit; nothing has changed.
            StreamWrong: a tensor is not what was sent, or the version is another one. The taker's weights are neither
                the old nor the new ones.
            StreamBroken: the sender or somebody else is gone. As above.
        """
        said = Said(self._group)
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
            said.wait()
            parts, running = dict[int, Tensor](), Sums(plan.nbytes)
            coming = deque[tuple[Tensor, list[Piece], Tensor, list[Any]]]()
            buckets = enumerate(plan.buckets())

            def ask() -> None:
                for number, bucket in islice(buckets, 1):
                    slot, sums = self._slots[number % SLOTS], torch.zeros(len(bucket), dtype=torch.int64)
                    coming.append((slot, bucket, sums, [*self._begin_data(slot, bucket), self._begin_sums(sums)]))

            ask()
            while coming:
                said.wait()
                ask()  # the slot that was taken last
                slot, bucket, sums, works = coming.popleft()
                self._end(works)
                if error is None:
                    try:
                        all_sums += self._take(taker, plan, bucket, slot, sums.tolist(), parts, running)
                    except Exception as wrong:
                        error = wrong
                said.put(WELL if error is None else WRONG)
            said.wait()
        return Receipt(plan.version, len(plan.entries), plan.nbytes, digest(all_sums), self.mapped)

    def close(self) -> None:
        """Hang up, so that nobody waits for this rank; what is on its way is lost."""
        self._group = self._data = self._store = None

    def _take(
        self,
        taker: Taker,
        plan: Plan,
        bucket: list[Piece],
        slot: Tensor,
        wanted: list[int],
        parts: dict[int, Tensor],
        running: Sums,
    ) -> list[int]:
        """The tensors that are whole with this bucket, to the taker; their checksums. ``parts``: those that are not."""
        found: list[int] = []
        taken: list[tuple[Entry, Tensor]] = []
        wrong: list[str] = []
        for piece in bucket:
            entry = plan.entries[piece.entry]
            target = taker.target(entry)
            if target is not None:
                value = target
            elif piece.ends and not piece.first:
                value = slot[piece.at : piece.at + piece.size].view(getattr(torch, entry.dtype)).view(entry.shape)
            else:
                if piece.entry not in parts:
                    parts[piece.entry] = entry.empty(self._device)
                value = parts[piece.entry]
            place = bytes_in_place(value)
            own = running.of(piece.entry, place.numel(), place.device)
            here, there = slot[piece.at : piece.at + piece.size], place[piece.first : piece.first + piece.size]
            if target is not None or piece.entry in parts:
                own.received(here, there)
            else:
                own.add(here)
            if not piece.ends:
                continue
            parts.pop(piece.entry, None)
            found.append(running.end(piece.entry))
            if found[-1] != wanted[len(found) - 1] % 2**64:
                wrong.append(entry.name)
            elif target is None:
                taken.append((entry, value))
        if wrong:
            raise StreamWrong(f"{', '.join(wrong[:5])} ({len(wrong)}): what has arrived is not what was sent")
        if taken:
            taker.take(taken)
        return found

    def _begin_data(self, slot: Tensor, bucket: list[Piece]) -> list[Any]:
        """What is to be waited for until ``bucket`` is in ``slot`` everywhere; nothing where all ranks map it."""
        if self.mapped:
            return []
        used = slot[: bucket[-1].at + bucket[-1].size]
        return [(self._data or self._group).broadcast(used, 0)]

    def _begin_sums(self, sums: Tensor) -> Any:
        """The same for checksums, int64: of the tensors that end in a bucket, as many as it has pieces."""
        return self._group.broadcast(sums, 0)

    def _end(self, works: list[Any]) -> None:
        for work in works:
            work.wait()
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


def _padded(sums: list[int], size: int) -> Tensor:
    """int64 [size]: ``sums``, then zeros."""
    found = [value - 2**64 if value >= 2**63 else value for value in sums]
    return torch.tensor(found + [0] * (size - len(found)), dtype=torch.int64)


def machine() -> str:
    """Names what processes share that can look at each other: a running kernel and its numbers of processes."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + os.readlink("/proc/self/ns/pid")


class _Held:
    """The one of ``tensors`` that is being sent."""

    def __init__(self, tensors: Iterator[Tensor]) -> None:
        self._next = tensors
        self._at, self._bytes = -1, torch.empty(0, dtype=torch.uint8)

    def bytes_of(self, entry: int) -> Tensor:
        """uint8: those of tensor ``entry``, which is the same as in the last call or the next one."""
        while self._at < entry:
            self._bytes = bytes_of(next(self._next))
            self._at += 1
        return self._bytes


def bytes_in_place(tensor: Tensor) -> Tensor:
    """uint8 [bytes]: the memory of ``tensor`` itself, which must lie in one piece."""
    assert tensor.is_contiguous()
    return tensor.detach().view(-1).view(torch.uint8)
