"""The rollout engine: real vLLM in this process, stepped by its owner.

``add`` requests, call ``step`` until they are finished, ``update_weights`` between steps. Because nothing
else steps the engine, the policy version that sampled each token is known exactly. What comes back per
sampled token is ``log pi_old(o_t | q, o_<t)`` under the SAMPLING distribution (temperature and truncation
applied), the support when truncated, and the experts of every token whose forward pass ran (prefix-cache
hits included).
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

from rl.policy.supported import DSA_ARCHITECTURES
from rl.rollout.config import EngineConfig
from rl.rollout.vllm_plugin import BACKEND_VARIABLE, dsa_backend_here
from rl.types import ReplayRecord

if TYPE_CHECKING:
    import torch

FinishReason = Literal["stop", "length", "abort"]


@dataclass(frozen=True)
class GenerateRequest:
    """One continuation to sample. Temperature 0 is greedy (its log-probs are those of temperature 1)."""

    request_id: str
    prompt_tokens: list[int]
    max_tokens: int
    stop_token_ids: tuple[int, ...] = ()
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    json_schema: dict[str, Any] | None = None  # the answer is JSON of this schema; its mask is not recorded
    # Of a deterministic engine: where the noise of its tokens comes from, and how many of the prompt's tokens the same
    # caller had computed before (``Generation.cached_tokens``).
    seed: int = 0
    known_tokens: int = 0

    @property
    def truncated(self) -> bool:
        """Whether sampling drops part of the vocabulary (the support is then recorded)."""
        return self.temperature > 0 and (self.top_p < 1.0 or self.top_k > 0 or self.min_p > 0.0)


@dataclass
class Generation:
    """What was sampled for one request: n tokens after a prompt of m.

    ``logprobs`` [n] natural log under the sampling distribution; ``version_per_token`` [n]; ``version`` of
    the last token; ``replay`` rows for all m + n tokens: experts and (engine option) indexer choices, and the
    support (int32 ids, ascending) of truncated sampling. None when there is nothing of the kind. ``cached_tokens``:
    of the prompt's m tokens, those found in the prefix cache; in a deterministic engine those of the ``known_tokens``
    that the cache can hold, for what it finds of others depends on who came first.
    """

    tokens: list[int]
    logprobs: list[float]
    finish_reason: FinishReason
    version: int
    version_per_token: list[int]
    replay: ReplayRecord | None = None
    cached_tokens: int = 0


@dataclass
class _Running:
    request: GenerateRequest
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)
    support: list[np.ndarray] = field(default_factory=list)
    finish_reason: FinishReason = "abort"
    cached_tokens: int = 0


@dataclass
class EngineStats:
    """Totals since the engine started. ``busy_s`` is time inside ``step``."""

    sampled_tokens: int = 0
    prompt_tokens: int = 0
    cached_prompt_tokens: int = 0  # prompt tokens found in the prefix cache
    finished: int = 0
    steps: int = 0
    busy_s: float = 0.0
    start_s: float = 0.0
    weight_updates: int = 0

    @property
    def tokens_per_s(self) -> float:
        """Sampled tokens per second of stepping."""
        return self.sampled_tokens / self.busy_s if self.busy_s else 0.0


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
        if not (Path(model_dir) / "config.json").is_file():
            raise ValueError(f"model_dir={str(model_dir)!r}: no config.json there; save the policy first")
        os.environ[BACKEND_VARIABLE] = config.dsa_backend
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # the engine core is stepped in this process
        os.environ["VLLM_USE_V2_MODEL_RUNNER"] = "0"  # the second runner needs Triton kernels that CPUs lack
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")  # vLLM warns about tuning that does not apply here
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        # Idle OpenMP threads must sleep, not spin: with a learner on the same cores spinning made two threads
        # over 20 times slower. Read when torch is first imported, so launchers set it for actors too.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        import torch

        torch.set_num_threads(config.threads)
        set_num_threads = torch.set_num_threads
        from vllm.config import StructuredOutputsConfig
        from vllm.engine.arg_utils import EngineArgs
        from vllm.v1.engine.llm_engine import LLMEngine

        from rl.rollout.vllm_experts import ExpertsRecorder, keep_experts_plain
        from rl.rollout.vllm_rotary import rotate_heads_right
        from rl.rollout.vllm_sampler import install_sampler
        from rl.rollout.vllm_weights import checkpoint_names, keep_weights_plain

        keep_weights_plain()
        keep_experts_plain()
        rotate_heads_right()
        args = EngineArgs(
            model=str(model_dir),
            skip_tokenizer_init=not structured,
            generation_config="vllm",
            dtype=config.dtype,  # type: ignore[arg-type]
            seed=config.seed,
            max_model_len=config.max_context,
            max_num_seqs=config.max_concurrency,
            max_num_batched_tokens=config.max_num_batched_tokens,
            kv_cache_memory_bytes=int(config.kv_cache_gib * 2**30),
            block_size=block_size or _default_block_size(Path(model_dir)),
            use_tqdm_on_load=False,
            enable_prefix_caching=True,
            enforce_eager=True,
            logprobs_mode="processed_logprobs",
            max_logprobs=1,
            disable_log_stats=True,
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
        self._check(request)
        schema = self._structured_outputs(request)
        self._submit(
            request,
            dict(
                structured_outputs=schema,
                temperature=request.temperature,
                top_p=request.top_p,
                top_k=request.top_k,
                min_p=request.min_p,
                max_tokens=request.max_tokens,
                stop_token_ids=list(request.stop_token_ids),
                logprobs=0,
            ),
        )

    def step(self) -> list[tuple[str, Generation]]:
        """One engine step: a decode token, or a chunk of prefill, for each request. Returns the finished."""
        finished, self._finished_early = self._finished_early, []
        for request_id, _ in self._advance():
            finished.append((request_id, self._generation(self._running.pop(request_id), request_id)))
        return finished

    def has_unfinished(self) -> bool:
        """Whether ``step`` still has something to do or to return."""
        return bool(self._running) or bool(self._finished_early)

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

        tensors = {k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in named.items()}
        if hasattr(self._model, "copy_weights"):
            self._model.copy_weights(tensors)
        else:
            from rl.policy.io import unstack_experts
            from rl.rollout.vllm_weights import load_plain_weights

            load_plain_weights(self._model, unstack_experts(tensors), self._checkpoint_names)
        self._core.reset_prefix_cache()
        self.version = version
        self._totals.weight_updates += 1
        return time.perf_counter() - started

    def score(self, tokens: list[int]) -> tuple[np.ndarray, ReplayRecord | None]:
        """Log-probs of tokens[1:] at temperature 1 (float32 [T-1]) and the choices made on the way.

        The record has the indexer's choices too, so that the learner can repeat this very forward pass: the
        probe after a weight sync compares numerics, not near-ties. Requests in flight advance meanwhile.
        Errors: fewer than 2 tokens, or T >= max_model_len.
        """
        if len(tokens) < 2:
            raise ValueError(f"score: {len(tokens)} tokens; at least 2 are needed for one log-prob")
        request_id = f"score-{self._totals.steps}"
        request = GenerateRequest(request_id, list(tokens), max_tokens=1)
        self._check(request)
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

    def _check(self, request: GenerateRequest) -> None:
        prompt = request.prompt_tokens
        if request.request_id in self._running:
            raise ValueError(f"request_id={request.request_id!r} is already running: give each request its own id")
        if not 1 <= len(prompt) < self.max_model_len:
            raise ValueError(
                f"prompt_tokens of {request.request_id!r}: {len(prompt)} tokens; must be 1 to "
                f"{self.max_model_len - 1} (max_model_len leaves room for one sampled token)"
            )
        if min(prompt) < 0 or max(prompt) >= self.vocab_size:
            raise ValueError(
                f"prompt_tokens of {request.request_id!r} span {min(prompt)}..{max(prompt)}; the vocabulary "
                f"is 0..{self.vocab_size - 1}: tokenizer and policy do not belong together"
            )
        if request.max_tokens < 1:
            raise ValueError(f"max_tokens={request.max_tokens} of {request.request_id!r}: must be at least 1")

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
        if not tables and not support:
            return None
        record = ReplayRecord(np.arange(total) < (known if tables else 0))
        for name, table in tables.items():
            rows = np.zeros((total, *table.shape[1:]), dtype=str(table.dtype).removeprefix("torch."))
            if known > 0:
                rows[:known] = table[self._slots(request_id, known)].numpy()
            setattr(record, name, rows)
        if support:
            record.support = [None] * (total - len(support)) + list(support)
        return record


def _default_block_size(model_dir: Path) -> int | None:
    """8 for our own paged layers: every rollout that has a prompt computes what does not fill a block of it anew, and
    smaller blocks cost more to look up than that. Elsewhere the attention backend decides: on a CPU 32, the smallest
    that its kernels take (vLLM takes 128 by itself, and prompts of a few hundred tokens then hit nothing)."""
    import torch

    kind = json.loads((model_dir / "config.json").read_text())["model_type"]
    if kind in DSA_ARCHITECTURES and dsa_backend_here() == "torch":
        return 8
    return None if torch.cuda.is_available() else 32
