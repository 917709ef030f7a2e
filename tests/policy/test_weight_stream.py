"""Weights in a stream: what arrives is what was sent, through mapped memory and over TCP; what is not is named."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rl.policy import weight_stream
from rl.policy.checksum import ROW, Running, Sums, checksum, digest
from rl.policy.meeting import open_meeting
from rl.policy.rendezvous import Receipt, Rendezvous, StreamBroken, StreamWrong
from rl.policy.weight_plan import Entry, Piece, Plan
from rl.policy.weight_source import WeightSource
from rl.policy.weight_stream import Link, Links

HOST = "127.0.0.1"
BUCKET = 4096
STORES: list[Any] = []


def tensors(value: float = 1.0) -> dict[str, Tensor]:
    """Of several dtypes and shapes, larger and smaller than a bucket; a head that is tied to the embedding."""
    generator = torch.Generator().manual_seed(int(value))
    named = {
        "embed": torch.randn(300, 8, generator=generator),  # 9,600 bytes: three buckets
        "square": torch.randn(24, 24, generator=generator),
        "half": torch.randn(7, 3, generator=generator).bfloat16(),
        "turned": torch.randn(6, 4, generator=generator).t(),
        "count": torch.tensor(int(value)),
        "none": torch.empty(0, 5),
    }
    return named | {"head": named["embed"]}


class Keep:
    """A taker of everything; ``direct``: bytes go straight to where they belong."""

    def __init__(self, direct: bool = False) -> None:
        self.named = {name: torch.zeros(value.shape, dtype=value.dtype) for name, value in tensors().items()}
        self.direct, self.begun = direct, False

    def begin(self, plan: Plan) -> None:
        if missing := sorted(self.named.keys() - plan.shapes.keys()):
            raise ValueError(f"missing {missing}")

    def target(self, entry: Entry) -> Tensor | None:
        self.begun = True
        return self.named[entry.name] if self.direct else None

    def take(self, given: list[tuple[Entry, Tensor]]) -> None:
        for entry, value in given:
            self.named[entry.name].copy_(value)


@pytest.fixture
def meeting() -> Rendezvous:
    STORES.append(open_meeting(HOST, 2, 10.0))  # it is there as long as somebody holds it
    return Rendezvous(HOST, STORES[-1].port, "test", 2, timeout_s=10.0, bucket_bytes=BUCKET, version=3)


@pytest.fixture(params=["mapped", "tcp"])
def over(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "tcp":
        monkeypatch.setattr(Link, "_shared", lambda self, size: None)
    return str(request.param)


def beside(action: Callable[[], Any]) -> Callable[[], Any]:
    """``action`` in a thread; what it gives or raises, when it has ended."""
    found: list[Any] = []

    def run() -> None:
        try:
            found.append(action())
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()

    def ended() -> Any:
        thread.join(20.0)
        return found[0]

    return ended


def send(links: Links, meeting: Rendezvous, named: dict[str, Tensor]) -> Receipt:
    source = WeightSource(named)
    with links.to(meeting, 0, HOST) as link:
        return link.send(source.plan(meeting.version, BUCKET), iter(source))


def receive(links: Links, meeting: Rendezvous, taker: Keep, rank: int = 1, version: int | None = None) -> Receipt:
    with links.to(meeting, rank, HOST) as link:
        return link.receive(taker, meeting.version if version is None else version)


def test_two_ranks_receive_what_is_sent_again_and_again(meeting: Rendezvous, over: str) -> None:
    ends, takers = [Links(), Links(), Links()], [Keep(direct=False), Keep(direct=True)]
    at = replace(meeting, size=3)
    for version in (1, 2, 3):
        at = replace(at, version=version)
        named = tensors(version)
        others = [beside(partial(receive, ends[r], at, takers[r - 1], r)) for r in (1, 2)]
        sent = send(ends[0], at, named)
        assert [other() for other in others] == [sent, sent]
        assert (sent.version, sent.tensors, sent.mapped) == (version, 6, over == "mapped")
        assert sent.nbytes == sum(value.nbytes for name, value in named.items() if name != "head")
        for taker in takers:
            assert all(torch.equal(taker.named[name], value) for name, value in named.items() if name != "head")


def test_both_ends_work_at_once(meeting: Rendezvous, over: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second bucket is being written while the first one is taken, and the third one is not yet."""
    right, written, before = Link.write, list[int](), list[set[int]]()
    second = threading.Event()

    def write(link: Link, slot: Tensor, entry: Entry, piece: Piece, data: Tensor, own: Running) -> None:
        right(link, slot, entry, piece, data, own)
        written.append(piece.entry)
        if piece.entry == 1:
            second.set()

    class Slow(Keep):
        def take(self, given: list[tuple[Entry, Tensor]]) -> None:
            assert second.wait(5.0), "the sender waits for what has not ended"
            before.append(set(written))
            super().take(given)

    monkeypatch.setattr(Link, "write", write)
    named = {name: torch.randn(BUCKET // 4) for name in "abc"}  # a bucket each
    taker, ends = Slow(), (Links(), Links())
    taker.named = {name: torch.zeros_like(value) for name, value in named.items()}
    here = beside(lambda: receive(ends[1], meeting, taker))
    assert send(ends[0], meeting, named) == here()
    assert before[0] == {0, 1}
    assert all(torch.equal(taker.named[name], value) for name, value in named.items())


def test_nothing_to_send(meeting: Rendezvous, over: str) -> None:
    taker, ends = Keep(), (Links(), Links())
    taker.named = {}
    here = beside(lambda: receive(ends[1], meeting, taker))
    assert send(ends[0], meeting, {}) == here()
    assert not taker.begun


FAULTS: dict[str, Callable[[Tensor, Piece, Tensor, Entry], None]] = {
    "skipped": lambda place, piece, data, entry: None,  # what was there before stays: zeros, or another bucket
    "stale": lambda place, piece, data, entry: place.copy_(_old(entry)[piece.first : piece.first + piece.size]),
    "half-sent": lambda place, piece, data, entry: place[: piece.size // 2].copy_(
        data[piece.first : piece.first + piece.size // 2]
    ),
    "transposed": lambda place, piece, data, entry: place.copy_(
        data.view(torch.float32).view(entry.shape).t().contiguous().view(-1).view(torch.uint8)
    ),
}


def _old(entry: Entry) -> Tensor:
    return tensors(9.0)[entry.name].contiguous().view(-1).view(torch.uint8)


@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_tensor_that_is_not_what_was_sent_is_named(
    meeting: Rendezvous, over: str, fault: str, direct: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = Link.write

    def write(link: Link, slot: Tensor, entry: Entry, piece: Piece, data: Tensor, own: Running) -> None:
        if entry.name != "square":
            right(link, slot, entry, piece, data, own)
            return
        own.add(data[piece.first : piece.first + piece.size])
        FAULTS[fault](slot[piece.at : piece.at + piece.size], piece, data, entry)

    monkeypatch.setattr(Link, "write", write)
    taker, ends = Keep(direct), (Links(), Links())
    here = beside(lambda: receive(ends[1], meeting, taker))
    with pytest.raises(StreamBroken, match="a rank has refused"):
        send(ends[0], meeting, tensors())
    error = here()
    assert isinstance(error, StreamWrong)
    assert str(error) == "square (1): what has arrived is not what was sent"
    assert taker.begun
    monkeypatch.setattr(Link, "write", right)
    again = replace(meeting, key="again")  # and the next one is whole
    here = beside(lambda: receive(ends[1], again, taker))
    assert send(ends[0], again, tensors()) == here()
    assert torch.equal(taker.named["square"], tensors()["square"])


def test_a_plan_that_does_not_fit_changes_nothing(meeting: Rendezvous) -> None:
    named, taker, ends = tensors(), Keep(), (Links(), Links())
    del named["square"]
    here = beside(lambda: receive(ends[1], meeting, taker))
    with pytest.raises(StreamBroken):
        send(ends[0], meeting, named)
    assert str(here()) == "missing ['square']"
    assert not taker.begun


def test_what_one_refuses_changes_nothing_anywhere(meeting: Rendezvous) -> None:
    at, takers, ends = replace(meeting, size=3), [Keep(), Keep(direct=True)], [Links(), Links(), Links()]
    takers[1].named["more"] = torch.zeros(1)
    others = [beside(partial(receive, ends[r], at, takers[r - 1], r)) for r in (1, 2)]
    with pytest.raises(StreamBroken):
        send(ends[0], at, tensors())
    assert isinstance(others[0](), StreamBroken)
    assert str(others[1]()) == "missing ['more']"
    assert not takers[0].begun


def test_a_stale_version_is_refused(meeting: Rendezvous) -> None:
    taker, ends = Keep(), (Links(), Links())
    here = beside(lambda: receive(ends[1], meeting, taker, version=4))
    with pytest.raises(StreamBroken):
        send(ends[0], meeting, tensors())
    assert str(here()) == "weights of version 3 came, those of version 4 were awaited"
    assert not taker.begun


def test_a_sender_that_stops_in_the_middle_is_told(meeting: Rendezvous, over: str) -> None:
    def broken() -> Iterator[Tensor]:
        yield from list(source)[:2]
        raise ValueError("no third tensor")

    source, taker, ends = WeightSource(tensors()), Keep(), (Links(), Links())
    here = beside(lambda: receive(ends[1], replace(meeting, timeout_s=5.0), taker))
    with pytest.raises(ValueError, match="no third tensor"), ends[0].to(meeting, 0, HOST) as link:
        link.send(source.plan(3, BUCKET), broken())
    assert isinstance(here(), StreamBroken)
    assert taker.begun


def test_a_receiver_that_hangs_is_not_waited_for_longer(meeting: Rendezvous) -> None:
    goes_on = threading.Event()

    class Hangs(Keep):
        def take(self, given: list[tuple[Entry, Tensor]]) -> None:
            goes_on.wait(10.0)

    at, ends = replace(meeting, timeout_s=0.7), (Links(), Links())
    here = beside(partial(receive, ends[1], at, Hangs()))
    with pytest.raises(StreamBroken, match="weights could not be sent"):
        send(ends[0], at, tensors())
    goes_on.set()
    assert isinstance(here(), StreamBroken)


def test_nobody_comes(meeting: Rendezvous) -> None:
    with pytest.raises(StreamBroken, match="did not meet"):
        send(Links(), replace(meeting, timeout_s=0.5), tensors())


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 900), min_size=1, max_size=12), st.sampled_from([64, 256, 1000]))
def test_buckets_hold_every_byte_once(sizes: list[int], bucket: int) -> None:
    plan = Plan(1, tuple(Entry((f"t{i}",), "uint8", (n,)) for i, n in enumerate(sizes)), bucket)
    assert Plan.from_json(plan.to_json()) == plan
    seen: dict[int, int] = dict.fromkeys(range(len(sizes)), 0)
    ended = []
    for pieces in plan.buckets():
        end = 0
        for piece in pieces:
            assert piece.first == seen[piece.entry], "in order"
            assert end <= piece.at <= piece.at + piece.size <= bucket
            end = piece.at + piece.size
            seen[piece.entry] += piece.size
            ended += [piece.entry] * piece.ends
    assert list(seen.values()) == sizes
    assert ended == list(range(len(sizes)))


def splitmix(place: int) -> int:
    """SplitMix64 from 0, as its authors wrote it down."""
    z = (place + 1) * 0x9E3779B97F4A7C15 % 2**64
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
    return z ^ z >> 31


def test_checksums_by_hand() -> None:
    first, step = 0x2545F4914F6CDD1D, 0x1E3779B97F4A7C15
    assert splitmix(0) == 0xE220A8397B1DCDAF  # the generator's published first number
    column, row = splitmix(0) | 1, splitmix(1024) & ~1
    one = torch.tensor([5], dtype=torch.int64)
    assert checksum(one) == (5 * column + 5 * row + 8 * first) % 2**64
    assert checksum(torch.tensor([5, 0, 0, 0, 0, 0, 0, 0], dtype=torch.uint8)) == checksum(one)
    two = torch.zeros(1024 + 2, dtype=torch.int64)
    two[1025] = -3  # column 1 of row 1
    assert checksum(two) == (-3 * (splitmix(1) | 1) - 3 * (splitmix(1025) & ~1) + 8 * 1026 * first) % 2**64
    assert checksum(torch.empty(0)) == 0
    assert digest([3, 4]) == f"{(3 * (first + 2 * step) + 4 * (first + 4 * step)) % 2**64:016x}"
    assert digest([4, 3]) != digest([3, 4])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2 * 1024 + 99), st.integers(0, 63), st.integers(0, 2 * 1024 + 99))
def test_checksums_see_every_bit_and_every_exchange(word: int, bit: int, other: int) -> None:
    value = torch.randint(-(2**62), 2**62, (2 * 1024 + 100,), generator=torch.Generator().manual_seed(7))
    same, flipped, exchanged = checksum(value), value.clone(), value.clone()
    flipped[word] ^= -(2**63) if bit == 63 else 2**bit
    exchanged[[word, other]] = value[[other, word]]
    assert checksum(flipped) != same
    assert (checksum(exchanged) == same) == (word == other)
    if word % 1024:  # one row down and one column to the left
        exchanged = value.clone()
        below = (word + 1023) % len(value)
        exchanged[[word, below]] = value[[below, word]]
        assert checksum(exchanged) != same


LOOPS = ["torch", "compiled"]


def loop_of(name: str) -> Any:
    """What adds up: torch's operators, or the loop that numba compiles where it is installed."""
    if name == "torch":
        return None
    pytest.importorskip("numba")
    from rl.policy.checksum_loop import copy_rows

    return copy_rows


@pytest.mark.parametrize("loop", LOOPS)
@settings(max_examples=40, deadline=None)
@given(st.integers(0, 70 * ROW), st.lists(st.integers(0, 70 * ROW), max_size=6), st.sampled_from([0, 1, 3, 8]))
def test_checksums_of_what_is_copied_in_parts(loop: str, size: int, cuts: list[int], shift: int) -> None:
    """By either way, wherever the bytes lie, they are the checksum of the whole; and the bytes are copied."""
    data = torch.randint(0, 256, (size + shift,), dtype=torch.uint8, generator=torch.Generator().manual_seed(size))
    data, places = data[shift:], sorted(min(cut, size) for cut in cuts)
    sent, received, added = (Running(size, data.device, loop_of(loop)) for _ in range(3))
    slot, place = torch.zeros(size, dtype=torch.uint8), torch.zeros(size, dtype=torch.uint8)
    for first, last in pairwise([0, *places, size]):
        sent.sent(data[first:last], slot[first:last])
        received.received(slot[first:last], place[first:last])
        added.add(data[first:last])
    assert sent.value() == received.value() == added.value() == checksum(data)
    assert torch.equal(place, data)
    assert torch.equal(slot, data)


@pytest.mark.parametrize("loop", LOOPS)
def test_what_counts_is_what_was_given_and_what_is_there(loop: str) -> None:
    """A target that does not keep what it is given: the sender's checksum is that of its tensor, the receiver's not."""
    data = torch.randint(0, 256, (4 * ROW,), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    one_row = torch.zeros(ROW, dtype=torch.uint8).expand(4, ROW)  # all rows are the same memory
    sent, received = (Running(4 * ROW, data.device, loop_of(loop)) for _ in range(2))
    for n in range(4):
        sent.sent(data[n * ROW : (n + 1) * ROW], one_row[n])
    for n in range(4):
        received.received(one_row[n], torch.empty(ROW, dtype=torch.uint8))
    assert sent.value() == checksum(data)
    assert received.value() == checksum(data[3 * ROW :].repeat(4)) != sent.value()


def test_a_large_stream_takes_the_compiled_loop() -> None:
    pytest.importorskip("numba")
    assert Sums(10)._loop is None
    assert Sums(2**30)._loop is loop_of("compiled")


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([(64, 64), (40, 60), (300, 7), (2, 409, 3)]))
def test_checksums_see_what_has_moved(seed: int, shape: tuple[int, ...]) -> None:
    value = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    same = checksum(value)
    assert checksum(value.clone()) == checksum(value.t().contiguous().t() if value.ndim == 2 else value) == same
    rows, one_bit = value.clone(), value.clone()
    rows[[0, 1]] = rows[[1, 0]]
    one_bit.view(-1)[-1:].view(torch.int32).bitwise_xor_(1)
    moved = [rows, one_bit, value.roll(1, -1), value.bfloat16(), value.flatten()[:-1]]
    moved += [value.t()] if value.ndim == 2 else []
    assert same not in [checksum(other) for other in moved]
    padded = torch.zeros(value.numel() + 3)
    padded[3:] = value.flatten()
    assert checksum(padded[3:]) == same, "wherever it lies"


def test_a_sharded_source_says_what_it_will_send() -> None:
    source = WeightSource(tensors(), {name: torch.bfloat16 for name in tensors()})
    assert [entry.dtype for entry in source.entries] == ["bfloat16"] * 6
    assert source.entries[0].names == ("embed", "head")
    assert [tuple(value.shape) for value in source] == [entry.shape for entry in source.entries]
    assert weight_stream.SLOTS == 2


def test_ranks_that_do_not_meet_leave_no_memory_behind() -> None:
    def open_memory() -> int:
        links = [link for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
        return sum("memfd:weights" in os.readlink(link) for link in links)

    class Gone:
        def allreduce(self, *given: Any) -> Any:
            raise RuntimeError("connection closed by peer")

    link = Link.__new__(Link)
    link.rank, link._size = 0, 2
    link._group = Gone()
    link._store = type("Store", (), {"set": lambda self, name, value: None})()
    before = open_memory()
    with pytest.raises(RuntimeError, match="connection closed"):
        link._shared(4096)
    assert open_memory() == before
