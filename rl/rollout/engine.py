"""The rollout engine: real vLLM in this process, stepped by its owner.

``add`` requests, call ``step`` until they are finished, ``update_weights`` between steps. Because nothing
else steps the engine, the policy version that sampled each token is known exactly. What comes back per
sampled token is ``log pi_old(o_t | q, o_<t)`` under the SAMPLING distribution (temperature and truncation
applied), the support when truncated, and the experts of every token whose forward pass ran (prefix-cache
hits included).
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from rl.rollout.config import EngineConfig
from rl.rollout.engine_api import (
    EngineStats,
    FinishReason,
    GenerateRequest,
    Generation,
    check_request,
    check_scored,
    rank_meeting,
    replay_of,
)
from rl.rollout.engine_arguments import check_model_dir, engine_arguments
from rl.rollout.vllm_loading import load_vllm
from rl.types import ReplayRecord

if TYPE_CHECKING:
    import torch

    from rl.policy.rendezvous import Receipt, Rendezvous


@dataclass
class _Running:
    request: GenerateRequest
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)
    support: list[np.ndarray] = field(default_factory=list)
    finish_reason: FinishReason = "abort"
    cached_tokens: int = 0


class Engine:
    """vLLM, synchronous, owned by one thread.

    Args:
        model_dir: HF-format directory (config.json + safetensors).
        config: size, dtype, threads and seed of the engine (``rl.rollout.config.EngineConfig``; vLLM seeds this
            process's torch, numpy and random generators with the seed; a Ray actor with num_cpus=1 starts with one
            thread).
        block_size: tokens per cache block, the grain of prefix hits; None: 8 for the torch DSA model, else
            what vLLM's kernels want.
        record_indexer: generations carry the DSA indexer's choices too (layers x index_topk numbers a token).
        structured: requests may carry a ``json_schema``; loads the tokenizer of ``model_dir`` for its grammar.
        deterministic: the bits of a generation depend on its request and the weights only: not on what runs beside it,
            on how its prompt was cut or on what the cache held. Our torch DSA model on a CPU, in float32, with one
            thread; anything else is refused. Whether it holds on this machine: ``rl.rollout.engine_check``.
    """

    def __init__(
        self,
        model_dir: str | Path,
        config: EngineConfig,
        *,
        block_size: int | None = None,
        record_indexer: bool = False,
        structured: bool = False,
        deterministic: bool = False,
    ) -> None:
        started = time.perf_counter()
        check_model_dir(model_dir)
        load_vllm(config)
        import torch

        torch.set_num_threads(config.threads)
        set_num_threads = torch.set_num_threads
        from vllm.config import StructuredOutputsConfig
        from vllm.engine.arg_utils import EngineArgs
        from vllm.v1.engine.llm_engine import LLMEngine

        from rl.policy.weight_stream import Links
        from rl.rollout.vllm_experts import ExpertsRecorder, keep_experts_plain
        from rl.rollout.vllm_rotary import rotate_heads_right
        from rl.rollout.vllm_sampler import install_sampler
        from rl.rollout.vllm_weights import checkpoint_names, keep_weights_plain

        keep_weights_plain()
        keep_experts_plain()
        rotate_heads_right()
        args = EngineArgs(
            **engine_arguments(model_dir, config, block_size),
            skip_tokenizer_init=not structured,
            # llguidance reads a schema in a millisecond, and every task may bring its own; xgrammar takes seconds.
            # Without free white space: a model that knows no JSON would fill its budget with blanks.
            structured_outputs_config=StructuredOutputsConfig(backend="guidance", disable_any_whitespace=True),
        )
        self._llm = LLMEngine.from_engine_args(args)
        torch.set_num_threads = set_num_threads  # vLLM's CPU worker replaces it by a warning
        client: Any = self._llm.engine_core
        self._core = client.engine_core
        self._runner = self._core.model_executor.driver_worker.worker.model_runner
        self._model = self._runner.model
        self.max_model_len = config.max_context
        self.vocab_size = self._runner.model_config.get_vocab_size()
        self.version = 0
        self.awaits = ""
        self._links = Links()
        self._device = next(self._model.parameters()).device
        self._totals = EngineStats()
        self._running: dict[str, _Running] = {}
        self._finished_early: list[tuple[str, Generation]] = []
        self._structured = structured
        self._schemas: set[str] = set()  # JSON schemas that were found right once
        self._checkpoint_names = checkpoint_names(model_dir)
        self.deterministic = deterministic
        self._sampler = install_sampler(self._runner, self._place_of if deterministic else None)
        self._experts: torch.Tensor | None = None  # [slots, L_moe, K] of the token now at that cache slot
        if getattr(getattr(self._model, "dsa", None), "num_moe_layers", 0):
            self._experts = self._model.make_experts_table()
        elif not self.has_indexer:  # a model of vLLM's own
            cache = self._core.vllm_config.cache_config
            recorder = ExpertsRecorder.watch(self._model, cache.num_gpu_blocks * cache.block_size)
            self._experts = None if recorder is None else recorder.table
        if record_indexer and not self.has_indexer:
            raise ValueError(
                "record_indexer=True, but this engine's model is not our torch DSA model: its indexer cannot be "
                "recorded; set replay.indexer=off, or rollout.dsa_backend=torch"
            )
        self._record_indexer(record_indexer)
        if deterministic:
            self._make_deterministic(config)
        self._totals.start_s = time.perf_counter() - started

    @property
    def has_experts(self) -> bool:
        """Whether generations carry a replay record (models with MoE layers)."""
        return self._experts is not None

    @property
    def has_indexer(self) -> bool:
        """Whether the indexer's choices can be recorded (our torch DSA model)."""
        return hasattr(self._model, "indexer_table")

    def add(self, request: GenerateRequest) -> None:
        """Queue a request.

        Errors (ValueError): running id, empty or too long prompt, token outside the vocabulary, a JSON schema that
        cannot be enforced.
        """
        check_request(request, self._running, self.max_model_len, self.vocab_size)
        schema = self._structured_outputs(request)
        self._submit(request, request.sampling | {"structured_outputs": schema})

    def step(self) -> list[tuple[str, Generation]]:
        """One engine step: a decode token, or a chunk of prefill, for each request. Returns the finished."""
        finished, self._finished_early = self._finished_early, []
        for request_id, _ in self._advance():
            finished.append((request_id, self._generation(self._running.pop(request_id), request_id)))
        return finished

    def has_unfinished(self) -> bool:
        """Whether ``step`` still has something to do or to return."""
        return bool(self._finished_early) or (bool(self._running) and not self.awaits)

    def abort(self, request_id: str) -> Generation:
        """Stop a request and return what it has (finish_reason "abort"). Errors: KeyError, unknown id."""
        state = self._running.pop(request_id)
        computed = self._core.scheduler.requests[request_id].num_computed_tokens
        generation = self._generation(state, request_id, computed)
        self._core.abort_requests([request_id])
        if state.request.truncated:
            self._sampler.truncated_requests -= 1
        return generation

    def update_weights(self, named: Mapping[str, torch.Tensor | np.ndarray], version: int) -> float:
        """Copy new weights in place, between steps; returns the seconds it took.

        ``named``: the learner's state dict (HF names). Requests in flight continue under the new weights and
        keep their cache rows; the prefix cache is emptied and salted, so that new requests hit no row of
        older weights.
        Errors: missing, unknown or misshapen tensors, by name; nothing is changed then.
        """
        started = time.perf_counter()
        import torch

        from rl.rollout.vllm_weights import update_model

        tensors = {k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in named.items()}
        update_model(self._model, tensors, self._checkpoint_names)
        self._updated(version)
        return time.perf_counter() - started

    def receive_weights(self, meeting: Rendezvous, rank: int, host: str) -> list[Receipt]:
        """See ``RolloutEngine``."""
        from rl.rollout.taking import PEER, take_stream, taker_of

        at, own = (rank_meeting(meeting, 0), 1) if meeting.source == PEER else (meeting, rank)
        taker = taker_of(self._model, meeting, self._checkpoint_names)
        try:
            receipt = take_stream(self._links, taker, at, own, host, self._device)
        except BaseException as error:
            if taker.begun:
                self.awaits = f"weights of version {meeting.version} came in part: {error}"
            raise
        self._updated(meeting.version)
        return [receipt]

    def send_weights(self, meeting: Rendezvous, host: str) -> list[Receipt]:
        """See ``RolloutEngine``."""
        from rl.rollout.taking import send_own

        return [send_own(self._links, self._model, rank_meeting(meeting, 0), host, self._device)]

    def hold(self, why: str) -> None:
        """See ``RolloutEngine``."""
        self.awaits = why

    def _updated(self, version: int) -> None:
        self._core.reset_prefix_cache()
        self.version, self.awaits = version, ""
        self._totals.weight_updates += 1

    def score(self, tokens: list[int]) -> tuple[np.ndarray, ReplayRecord | None]:
        """Log-probs of tokens[1:] at temperature 1 (float32 [T-1]) and the choices made on the way.

        The record has the indexer's choices too, so that the learner can repeat this very forward pass: the
        probe after a weight sync compares numerics, not near-ties. Requests in flight advance meanwhile.
        Errors: fewer than 2 tokens, or T >= max_model_len.
        """
        check_scored(tokens)
        if self.awaits:
            raise ValueError(f"the engine scores nothing now: {self.awaits}")
        request_id = f"score-{self._totals.steps}"
        request = GenerateRequest(request_id, list(tokens), max_tokens=1)
        check_request(request, self._running, self.max_model_len, self.vocab_size)
        recording = self.has_indexer and self._model.record_indexer
        self._record_indexer(self.has_indexer)
        try:
            self._submit(request, dict(temperature=1.0, max_tokens=1, prompt_logprobs=0, logprobs=0))
            while request_id in self._running:
                for done, output in self._advance():
                    state = self._running.pop(done)
                    if done != request_id:
                        self._finished_early.append((done, self._generation(state, done)))
                        continue
                    replay = self._replay(request_id, len(tokens), len(tokens), [])
                    logprobs = output.new_prompt_logprobs_tensors.logprobs[:, 0].numpy().copy()
        finally:
            self._record_indexer(recording)
        return logprobs, replay

    def stats(self) -> EngineStats:
        """Totals so far (a copy)."""
        return replace(self._totals)

    def close(self) -> None:
        """Release vLLM's executor. The engine cannot be used afterwards."""
        self._llm.engine_core.shutdown()

    def _make_deterministic(self, config: EngineConfig) -> None:
        wanted = None
        if not self.has_indexer:
            wanted = "our torch DSA model (policy=tiny_dsa or deepseek_v32 with rollout.dsa_backend=torch)"
        elif next(self._model.parameters()).device.type != "cpu":
            wanted = "an engine on the CPU"
        elif config.dtype != "float32":
            wanted = "rollout.dtype=float32"
        elif config.threads != 1:
            wanted = "rollout.threads=1"
        if wanted is not None:
            raise ValueError(f"a deterministic engine needs {wanted}; or set deterministic=false")
        groups = [group for per_cache in self._runner.attn_groups for group in per_cache]
        self._model.make_invariant(group.get_metadata_builder() for group in groups)

    def _place_of(self, request_id: str) -> tuple[int, int]:
        """The seed of a request, and how many tokens it has sampled."""
        state = self._running.get(request_id)
        return (0, 0) if state is None else (state.request.seed, len(state.tokens))

    def _structured_outputs(self, request: GenerateRequest) -> Any:
        """vLLM's parameters for the request's JSON schema, None without one.

        The schema is read here: a grammar that fails to compile in vLLM's scheduler would end the engine.
        """
        if request.json_schema is None:
            return None
        if not self._structured:
            raise ValueError(f"{request.request_id!r} has a json_schema: start the Engine with structured=True")
        from vllm import SamplingParams
        from vllm.sampling_params import StructuredOutputsParams
        from vllm.v1.structured_output.backend_guidance import validate_guidance_grammar

        text = json.dumps(request.json_schema)
        params = StructuredOutputsParams(json=text)
        params._backend = "guidance"
        if text not in self._schemas:
            try:
                validate_guidance_grammar(SamplingParams(structured_outputs=params))
            except Exception as error:  # llguidance's own and vLLM's kinds
                raise ValueError(f"json_schema of {request.request_id!r} cannot be enforced: {error}") from error
            self._schemas.add(text)
        return params

    def _submit(self, request: GenerateRequest, params: dict[str, Any]) -> None:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind
        from vllm.v1.engine import EngineCoreRequest

        sampling = SamplingParams(**params, detokenize=False, ignore_eos=True, output_kind=RequestOutputKind.FINAL_ONLY)
        core_request = EngineCoreRequest(
            request_id=request.request_id,
            prompt_token_ids=list(request.prompt_tokens),
            mm_features=None,
            sampling_params=sampling,
            pooling_params=None,
            arrival_time=time.time(),
            lora_request=None,
            cache_salt=str(self._totals.weight_updates),  # a version number may be reused with other weights
            data_parallel_rank=None,
        )
        self._core.add_request(*self._core.preprocess_add_request(core_request))
        self._running[request.request_id] = _Running(request)
        if request.truncated:
            self._sampler.truncated_requests += 1

    def _advance(self) -> list[tuple[str, Any]]:
        """One engine step; (id, vLLM output) of the requests that finished in it."""
        started = time.perf_counter()
        outputs, executed = self._core.step_fn()
        self._core.post_step(model_executed=executed)
        rows = self._runner.input_batch.req_id_to_index
        totals, version, finished = self._totals, self.version, []
        for output in outputs[0].outputs if outputs and 0 in outputs else ():
            state = self._running.get(output.request_id)
            if state is None:
                continue  # aborted
            if output.prefill_stats is not None:
                totals.prompt_tokens += output.prefill_stats.num_prompt_tokens
                state.cached_tokens = output.prefill_stats.num_cached_tokens
                if self.deterministic:
                    block = self._core.vllm_config.cache_config.block_size
                    state.cached_tokens = min(state.request.known_tokens, len(state.request.prompt_tokens) - 1)
                    state.cached_tokens -= state.cached_tokens % block
                totals.cached_prompt_tokens += state.cached_tokens
            if output.new_token_ids:
                state.tokens += output.new_token_ids
                state.logprobs.append(float(output.new_logprobs.logprobs[0, 0]))
                state.versions.append(version)
                totals.sampled_tokens += len(output.new_token_ids)
                if state.request.truncated:
                    state.support.append(self._sampler.support(rows[output.request_id]))
            if output.finish_reason is not None:
                reason = str(output.finish_reason)
                if reason not in ("stop", "length"):
                    raise RuntimeError(f"vLLM ended request {output.request_id!r} with finish_reason={reason!r}")
                state.finish_reason = cast(FinishReason, reason)
                finished.append((output.request_id, output))
                totals.finished += 1
                if state.request.truncated:
                    self._sampler.truncated_requests -= 1
        totals.steps += 1
        totals.busy_s += time.perf_counter() - started
        return finished

    def _generation(self, state: _Running, request_id: str, computed: int | None = None) -> Generation:
        total = len(state.request.prompt_tokens) + len(state.tokens)
        known = min(total - 1, total if computed is None else computed)  # the last sampled token was never an input
        return Generation(
            tokens=state.tokens,
            logprobs=state.logprobs,
            finish_reason=state.finish_reason,
            version=state.versions[-1] if state.versions else self.version,
            version_per_token=state.versions,
            replay=self._replay(request_id, total, known, state.support),
            cached_tokens=state.cached_tokens,
        )

    def _slots(self, request_id: str, count: int) -> torch.Tensor:
        """Cache slots of the first ``count`` tokens of a request that ran in the last step."""
        import torch

        block_size: int = self._core.vllm_config.cache_config.block_size
        blocks: torch.Tensor = torch.tensor(self._runner.requests[request_id].block_ids[0])
        positions = torch.arange(count)
        return blocks[positions // block_size] * block_size + positions % block_size

    def _record_indexer(self, on: bool) -> None:
        if on and self._model.indexer_table is None:
            self._model.make_indexer_table(self.max_model_len)
        if self.has_indexer:
            self._model.record_indexer = on

    def _replay(self, request_id: str, total: int, known: int, support: list[np.ndarray]) -> ReplayRecord | None:
        """Choices of the first ``known`` of ``total`` tokens; the next step may reuse their blocks.

        ``support``: of the last tokens, those that were sampled; empty when nothing was truncated.
        """
        tables: dict[str, torch.Tensor] = {}
        if self._experts is not None:
            tables["experts"] = self._experts
        if self.has_indexer and self._model.record_indexer:
            tables["indexer"] = self._model.indexer_table
        if not tables:
            return replay_of(total, {}, support)
        slots = self._slots(request_id, known) if known > 0 else slice(0)
        return replay_of(total, {name: table[slots].numpy() for name, table in tables.items()}, support)
