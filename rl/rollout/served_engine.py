"""The rollout engine served by processes of its own: vLLM's AsyncLLM, cut over ``tensor_parallel`` ranks.

vLLM's scheduler and ranks go on by themselves, and ``step`` collects what has finished. An update waits for the step in
flight, holds all requests, copies the weights into every rank out of shared memory, and goes on: vLLM notes which
weights drew each token, exactly there. What the model chose comes from the ranks' own record
(``rl.rollout.served_record``), when a request has ended.
"""

from __future__ import annotations

import asyncio
import itertools
import queue
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from rl.rollout.config import RolloutConfig
from rl.rollout.engine_api import (
    EngineStats,
    FinishReason,
    GenerateRequest,
    Generation,
    check_request,
    check_scored,
    replay_of,
)
from rl.rollout.engine_arguments import check_model_dir, engine_arguments, set_environment
from rl.rollout.engine_thread import EngineDied
from rl.rollout.served_client import ServedClient, said
from rl.rollout.taking import Answer, receipts
from rl.types import ReplayRecord

if TYPE_CHECKING:
    import torch

    from rl.policy.rendezvous import Receipt, Rendezvous

WAIT_S = 0.005  # of a step for something that finishes; whoever drives the engine has other things to do besides


@dataclass(eq=False)
class _Asked:
    request: GenerateRequest
    own_id: asyncio.Future[str]  # vLLM's id of it, once vLLM has it
    sampled: asyncio.Task[Generation] | None = None


class ServedEngine:
    """A ``RolloutEngine`` (``rl.rollout.engine_api``). All of it raises EngineDied when vLLM's processes have died or
    do not answer in time.

    Args:
        model_dir: HF-format directory (config.json + safetensors).
        config: size, dtype, threads of each rank, seed; ``tensor_parallel`` ranks; ``start_s`` and ``sync_s``.
        block_size: as for ``rl.rollout.engine.Engine``.
        record_indexer: generations carry the DSA indexer's choices too.
    Raises:
        ValueError: no model in ``model_dir``, or nothing to record of its indexer.
    """

    def __init__(
        self,
        model_dir: str | Path,
        config: RolloutConfig,
        *,
        block_size: int | None = None,
        record_indexer: bool = False,
    ) -> None:
        started = time.perf_counter()
        check_model_dir(model_dir)
        set_environment(config)
        from rl.rollout.vllm_weights import checkpoint_names

        self.version = 0
        self.awaits = ""
        self.max_model_len = config.max_context
        self._totals = EngineStats()
        self._running: dict[str, _Asked] = {}
        self._done: queue.SimpleQueue[_Asked] = queue.SimpleQueue()
        self._scores = itertools.count()
        self._client = ServedClient(engine_arguments(model_dir, config, block_size), config)
        try:
            self.vocab_size: int = self._client.llm.model_config.get_vocab_size()
            names = sorted(checkpoint_names(model_dir))
            able = self._client.ranks("say what it can record", "start_record", names, record_indexer)[0]
            self.has_experts: bool = able["experts"]
            self.has_indexer: bool = able["indexer"]
            if record_indexer and not self.has_indexer:
                raise ValueError(
                    "record_indexer=True, but this engine's model is not our torch DSA model: its indexer cannot be "
                    "recorded; set replay.indexer=off, or rollout.dsa_backend=torch"
                )
        except BaseException:
            self.close()
            raise
        self._recorded = ("experts",) * self.has_experts + ("indexer",) * record_indexer
        self._totals.start_s = time.perf_counter() - started

    def add(self, request: GenerateRequest) -> None:
        """See ``RolloutEngine``. ValueError for a JSON schema: a served engine enforces none."""
        check_request(request, self._running, self.max_model_len, self.vocab_size)
        if request.json_schema is not None:
            raise ValueError(f"{request.request_id!r} has a json_schema: a stepped engine enforces it")
        self._running[request.request_id] = asked = _Asked(request, self._client.loop.create_future())
        self._client.loop.call_soon_threadsafe(self._begin, asked)

    def step(self) -> list[tuple[str, Generation]]:
        """Wait a moment for requests to finish; returns those that have."""
        started, finished = time.perf_counter(), list[tuple[str, Generation]]()
        for asked in self._arrived():
            request = asked.request
            if self._running.get(request.request_id) is not asked:
                continue  # aborted
            del self._running[request.request_id]
            assert asked.sampled is not None
            if (error := asked.sampled.exception()) is not None:
                raise EngineDied(f"vLLM failed to sample request {request.request_id!r}: {said(error)}") from error
            generation = asked.sampled.result()
            self._count(request, generation)
            finished.append((request.request_id, generation))
        if not finished:
            self._client.check_alive("sample")
        self._totals.busy_s += time.perf_counter() - started
        return finished

    def has_unfinished(self) -> bool:
        """Whether ``step`` still has something to return."""
        return bool(self._running)

    def abort(self, request_id: str) -> Generation:
        """Stop a request and return what it has (finish_reason "abort"; of one that has ended meanwhile its own)."""
        asked = self._running.pop(request_id)
        generation = self._client.call(f"abort request {request_id!r}", self._abort(asked))
        self._count(asked.request, generation)
        return generation

    def update_weights(self, named: Mapping[str, torch.Tensor | np.ndarray], version: int) -> float:
        """See ``RolloutEngine``. A request that waits for its first step keeps the salt that it came with: it may hit
        rows which its group has computed under the older weights, as one in flight keeps its own."""
        started = time.perf_counter()
        import torch

        from rl.rollout.shared_weights import shared

        tensors = {k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in named.items()}
        with shared(tensors) as (path, places):
            answers = self._client.call(
                f"take the weights of version {version}", self._client.update(path, places, version)
            )
        if len(set(answers)) > 1:
            raise EngineDied(f"some ranks took the weights of version {version} and some did not: {answers}")
        if answers[0]:
            raise ValueError(answers[0])
        self._updated(version)
        return time.perf_counter() - started

    def receive_weights(self, meeting: Rendezvous, rank: int, host: str) -> list[Receipt]:
        """See ``RolloutEngine``."""
        plain = self._client.call(
            f"take the weights of version {meeting.version}", self._client.receive(meeting, rank, host)
        )
        answers = [Answer.of(one) for one in plain]
        if any(answer.receipt is None for answer in answers):
            if any(answer.torn or answer.receipt for answer in answers):
                self.awaits = f"weights of version {meeting.version} came in part"
            elif not self.awaits:
                self._client.call("go on", self._client.llm.resume_generation())
        taken = receipts(answers)
        self._client.call("take up its new weights", self._client.taken(meeting.version))
        self._updated(meeting.version)
        return taken

    def send_weights(self, meeting: Rendezvous, host: str) -> list[Receipt]:
        """See ``RolloutEngine``."""
        return receipts(
            [Answer.of(one) for one in self._client.ranks("send its weights", "send_weights", vars(meeting), host)]
        )

    def hold(self, why: str) -> None:
        """See ``RolloutEngine``."""
        self._client.call("hold its requests", self._client.hold())
        self.awaits = why

    def _updated(self, version: int) -> None:
        self.version, self.awaits = version, ""
        self._totals.weight_updates += 1

    def score(self, tokens: list[int]) -> tuple[np.ndarray, ReplayRecord | None]:
        """See ``RolloutEngine``."""
        check_scored(tokens)
        if self.awaits:
            raise ValueError(f"the engine scores nothing now: {self.awaits}")
        request = GenerateRequest(f"score-{next(self._scores)}", list(tokens), max_tokens=1)
        check_request(request, self._running, self.max_model_len, self.vocab_size)
        return self._client.call("score a sequence", self._score(request))

    def stats(self) -> EngineStats:
        """Totals so far (a copy). Tokens are counted when their request has ended."""
        return replace(self._totals, steps=self._client.ranks("give its statistics", "steps_done")[0])

    def close(self) -> None:
        """End vLLM's processes. The engine cannot be used afterwards."""
        self._client.close()

    def _arrived(self) -> Iterator[_Asked]:
        try:
            yield self._done.get(timeout=WAIT_S)
            while True:
                yield self._done.get_nowait()
        except queue.Empty:
            return

    def _count(self, request: GenerateRequest, generation: Generation) -> None:
        self._totals.sampled_tokens += len(generation.tokens)
        self._totals.prompt_tokens += len(request.prompt_tokens)
        self._totals.cached_prompt_tokens += generation.cached_tokens
        self._totals.finished += generation.finish_reason != "abort"

    # -- on the client's loop --------------------------------------------------------------------

    def _begin(self, asked: _Asked) -> None:
        asked.sampled = self._client.loop.create_task(self._sample(asked))
        asked.sampled.add_done_callback(lambda _: self._done.put(asked))

    async def _sample(self, asked: _Asked) -> Generation:
        request = asked.request
        try:
            output, own_id = await self._client.ask(request, request.sampling, asked.own_id)
        finally:
            asked.own_id.cancel()  # where vLLM has refused it
        (completion,) = output.outputs
        if completion.finish_reason not in ("stop", "length", "abort"):
            raise RuntimeError(f"it ended with finish_reason={completion.finish_reason!r}")
        tokens = list(completion.token_ids)
        versions = [int(span.version) for span in completion.weight_versions or () for _ in range(span.start, span.end)]
        if len(versions) != len(tokens):
            raise RuntimeError(f"vLLM says by which weights {len(versions)} of its {len(tokens)} tokens were drawn")
        known = len(request.prompt_tokens) + len(tokens) - 1  # the last sampled token was never an input
        replay = None
        if self._recorded or request.truncated:
            ended = await self._client.record_of(own_id)
            rows = {name: ended.rows[name][:known] for name in self._recorded}
            replay = replay_of(known + 1, rows, ended.support[: len(tokens)])
        return Generation(
            tokens=tokens,
            logprobs=[step[token].logprob for step, token in zip(completion.logprobs or (), tokens, strict=True)],
            finish_reason=cast(FinishReason, completion.finish_reason),
            version=versions[-1] if versions else self.version,
            version_per_token=versions,
            replay=replay,
            cached_tokens=output.num_cached_tokens or 0,
        )

    async def _abort(self, asked: _Asked) -> Generation:
        assert asked.sampled is not None  # begun before: calls are in order
        await self._client.llm.abort(await asked.own_id, internal=True)
        return await asked.sampled

    async def _score(self, request: GenerateRequest) -> tuple[np.ndarray, ReplayRecord | None]:
        ranks = self._client.llm.collective_rpc
        for_a_while = self.has_indexer and "indexer" not in self._recorded
        if for_a_while:
            await ranks("record_indexer", args=(True,))
        tokens = request.prompt_tokens
        output, own_id = await self._client.ask(request, request.sampling | {"prompt_logprobs": 0})
        given = zip(output.prompt_logprobs[1:], tokens[1:], strict=True)
        logprobs = np.array([step[token].logprob for step, token in given], np.float32)
        replay = None
        if self.has_experts or self.has_indexer:
            ended = await self._client.record_of(own_id)
            replay = replay_of(len(tokens), {name: rows[: len(tokens)] for name, rows in ended.rows.items()}, [])
        if for_a_while:
            await ranks("record_indexer", args=(False,))
        return logprobs, replay
