"""Rows of requests in a served engine, by hand: read before their blocks are given away."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from rl.rollout.served_record import Ended, ServedRecord


class Runner:
    """Blocks of 2 tokens. What a request's tokens chose lies at their slots: 10 x request + position."""

    def __init__(self) -> None:
        self.requests: dict[str, Any] = {}
        self.input_batch = SimpleNamespace(req_id_to_index={})


class Sampler:
    truncated_requests = 0

    def support(self, row: int) -> np.ndarray:
        return np.arange(row + 1, dtype=np.int32)


class Engine:
    def __init__(self, *, experts: bool = True) -> None:
        self.runner, self.sampler = Runner(), Sampler()
        self.table = torch.zeros(16, 1, 1, dtype=torch.uint8)
        tables = {"experts": self.table} if experts else {}
        self.record = ServedRecord(self.runner, self.sampler, lambda: tables, 2)  # type: ignore[arg-type]

    def step(
        self,
        new: dict[str, tuple[int, int, list[int], float]] | None = None,  # prompt, tokens of the step, blocks, top_p
        cached: dict[str, tuple[int, int]] | None = None,  # computed before, tokens of the step
        finished: tuple[str, ...] = (),
    ) -> None:
        new, cached = new or {}, cached or {}
        counts = {n: v[1] for n, v in new.items()} | {n: v[1] for n, v in cached.items()}
        asked = {n: SimpleNamespace(temperature=1.0, top_p=v[3], top_k=0, min_p=0.0) for n, v in new.items()}
        ordered = SimpleNamespace(
            finished_req_ids=set(finished),
            num_scheduled_tokens=counts,
            scheduled_new_reqs=[
                SimpleNamespace(req_id=n, prompt_token_ids=[0] * v[0], num_computed_tokens=0, sampling_params=asked[n])
                for n, v in new.items()
            ],
            scheduled_cached_reqs=SimpleNamespace(
                req_ids=list(cached), num_computed_tokens=[v[0] for v in cached.values()]
            ),
        )
        self.record.ordered(ordered)
        for name in finished:
            self.runner.requests.pop(name, None)
        for name, (_, _, blocks, _) in new.items():
            self.runner.requests[name] = SimpleNamespace(block_ids=(blocks,))
        for name, count in counts.items():
            before = cached[name][0] if name in cached else 0
            for position in range(before, before + count):
                block = self.runner.requests[name].block_ids[0][position // 2]
                self.table[2 * block + position % 2] = 10 * int(name) + position
        self.runner.input_batch.req_id_to_index = {name: i for i, name in enumerate(counts)}
        if counts:
            self.record.drawn()

    def taken(self, name: str) -> Ended:
        return Ended.of(self.record.take([name])[name])


def experts(ended: Ended) -> list[int]:
    return ended.rows["experts"].flatten().tolist()


def test_rows_are_read_before_their_blocks_are_others() -> None:
    engine = Engine()
    engine.step(new={"1": (3, 3, [5, 2], 1.0)})
    engine.step(cached={"1": (3, 1)})
    engine.step(new={"2": (4, 4, [2, 5], 1.0)}, finished=("1",))
    assert experts(engine.taken("1")) == [10, 11, 12, 13]
    assert experts(engine.taken("1")) == []  # nothing is kept twice
    assert experts(engine.taken("2")) == [20, 21, 22, 23]  # the scheduler has not said that it has ended
    engine.step(finished=("2",))
    assert experts(engine.taken("2")) == []
    assert engine.record.steps == 3


def test_a_preempted_request_that_is_aborted_has_no_rows() -> None:
    engine = Engine()
    engine.step(new={"1": (2, 2, [0], 1.0), "2": (1, 1, [1, 3], 1.0)})
    engine.step(cached={"2": (1, 1)})
    engine.step(new={"3": (2, 2, [0], 1.0)}, cached={"2": (2, 1)})  # 3 has the block of 1
    engine.step(finished=("1",))
    assert experts(engine.taken("1")) == []


def test_support_of_what_was_sampled() -> None:
    engine = Engine(experts=False)
    engine.step(new={"1": (5, 2, [0, 1, 3], 0.5), "2": (1, 1, [2], 1.0)})  # a piece of its prompt
    assert engine.sampler.truncated_requests == 1
    engine.step(cached={"2": (1, 1), "1": (2, 3)})  # the rest of it, in row 1
    engine.step(cached={"1": (5, 1)})
    engine.step(cached={"2": (2, 0)}, finished=("1",))
    assert engine.sampler.truncated_requests == 0
    ended = engine.taken("1")
    assert ended.rows == {}
    assert [kept.tolist() for kept in ended.support] == [[0, 1], [0]]
    # preempted after its first token: prompt and token are computed again, and then another token is drawn
    engine.step(new={"4": (2, 2, [4, 5], 0.5)})
    engine.step(cached={"4": (0, 2)})
    engine.step(cached={"4": (2, 1)})
    assert len(engine.taken("4").support) == 2
