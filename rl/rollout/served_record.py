"""What the model runner of a served engine chooses for its requests, kept until the rollout worker asks for it.

Rows of experts and indexers lie in tables by cache slot (``rl.rollout.vllm_model``, ``rl.rollout.vllm_experts``). The
scheduler gives a request's blocks to others as soon as it has ended, and says so with the next step that it orders:
the rows are read then, before that step runs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from rl.rollout.vllm_sampler import RecordingSampler

Tables = Mapping[str, torch.Tensor]
Plain = dict[str, Any]  # of what goes from process to process: vLLM's messages take nothing else


@dataclass
class Ended:
    """Of one request: rows of its first tokens by the names of ``ReplayRecord``, supports of the sampled ones."""

    rows: dict[str, np.ndarray] = field(default_factory=dict)
    support: list[np.ndarray] = field(default_factory=list)

    def plain(self) -> Plain:
        rows = {name: [str(a.dtype), list(a.shape), a.tobytes()] for name, a in self.rows.items()}
        return {"rows": rows, "support": [kept.tobytes() for kept in self.support]}

    @classmethod
    def of(cls, plain: Plain) -> Ended:
        """What ``plain`` was made from."""
        rows = {
            name: np.frombuffer(bytes(raw), dtype).reshape(shape) for name, (dtype, shape, raw) in plain["rows"].items()
        }
        return cls(rows, [np.frombuffer(bytearray(kept), np.int32) for kept in plain["support"]])


@dataclass
class _Request:
    prompt: int  # tokens
    truncated: bool
    computed: int = 0  # tokens whose forward pass has run, or runs in the step that was ordered last
    support: list[np.ndarray] = field(default_factory=list)
    taken: bool = False


class ServedRecord:
    """Told of every step that the runner gets, before it runs (``ordered``) and when its tokens are drawn (``drawn``).

    Args:
        runner: vLLM's model runner (the first version).
        sampler: the one that it uses.
        tables: gives the tables that hold rows now, by the names of ``ReplayRecord``.
        block_size: tokens per cache block.
    """

    def __init__(self, runner: Any, sampler: RecordingSampler, tables: Callable[[], Tables], block_size: int) -> None:
        self._runner, self._sampler, self._tables, self._block = runner, sampler, tables, block_size
        self._requests: dict[str, _Request] = {}
        self._ended: dict[str, Ended] = {}
        # Of the last two steps with tokens: the scheduler may be a step ahead of what has come back.
        self._lately: deque[set[str]] = deque(maxlen=2)
        self.steps = 0

    def ordered(self, step: Any) -> None:
        """``step``: vLLM's SchedulerOutput."""
        for name in step.finished_req_ids:
            if (request := self._requests.get(name)) is None:
                continue
            if not request.taken and (request.truncated or self._tables()):
                self._ended[name] = self._read(name)
            del self._requests[name]
        counts: dict[str, int] = step.num_scheduled_tokens
        for new in step.scheduled_new_reqs:
            asked = new.sampling_params
            cuts = asked.temperature > 0 and (asked.top_p < 1.0 or asked.top_k > 0 or asked.min_p > 0.0)
            self._requests[new.req_id] = _Request(
                len(new.prompt_token_ids), cuts, new.num_computed_tokens + counts[new.req_id]
            )
        cached = step.scheduled_cached_reqs
        for name, before in zip(cached.req_ids, cached.num_computed_tokens, strict=True):
            self._requests[name].computed = before + counts[name]
        self._sampler.truncated_requests = sum(self._requests[name].truncated for name in counts)
        if counts:
            self._lately.append(set(counts))
            self.steps += 1

    def drawn(self) -> None:
        """The tokens of the step that was ordered last are drawn."""
        rows = self._runner.input_batch.req_id_to_index
        for name in self._lately[-1] if self._lately else ():
            request = self._requests[name]
            # Else its prompt is not complete, and what was drawn for it is nobody's token.
            if request.truncated and request.computed >= request.prompt + len(request.support):
                request.support.append(self._sampler.support(rows[name]))

    def take(self, names: list[str]) -> dict[str, Plain]:
        """What there is of these requests, which have ended, and is not kept any longer; of one that never ran
        nothing."""
        found = {}
        for name in names:
            if (request := self._requests.get(name)) is not None:  # the scheduler has not said so yet
                request.taken = True
                found[name] = self._read(name).plain()
            else:
                found[name] = self._ended.pop(name, Ended({n: _host(t[:0]) for n, t in self._tables().items()})).plain()
        return found

    def _read(self, name: str) -> Ended:
        request = self._requests[name]
        # One that had no part in the last steps may have lost its blocks to others: preempted, then aborted.
        count = request.computed if any(name in step for step in self._lately) else 0
        tables = self._tables()
        if not tables:
            return Ended({}, request.support)
        blocks = torch.tensor(self._runner.requests[name].block_ids[0], dtype=torch.long)
        positions = torch.arange(count)
        slots = blocks[positions // self._block] * self._block + positions % self._block
        return Ended({n: _host(table[slots.to(table.device)]) for n, table in tables.items()}, request.support)


def _host(rows: torch.Tensor) -> np.ndarray:
    return rows.cpu().numpy()
