"""What every rollout engine takes and gives, whichever way it runs: stepped in this process (``rl.rollout.engine``) or
served by processes of its own (``rl.rollout.served_engine``)."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from rl.types import ReplayRecord

if TYPE_CHECKING:
    import torch

    from rl.policy.rendezvous import Receipt, Rendezvous

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

    @property
    def sampling(self) -> dict[str, Any]:
        """vLLM's ``SamplingParams`` for it, but for a JSON schema."""
        return dict(
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            min_p=self.min_p,
            max_tokens=self.max_tokens,
            stop_token_ids=list(self.stop_token_ids),
            logprobs=0,
        )


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


class RolloutEngine(Protocol):
    """vLLM, owned by one thread: ``add`` requests, ``step`` until they are finished, ``update_weights`` meanwhile."""

    max_model_len: int
    vocab_size: int
    version: int
    awaits: str  # why it samples nothing until weights have come whole; empty: it samples

    @property
    def has_experts(self) -> bool:
        """Whether generations carry a replay record (models with MoE layers)."""

    @property
    def has_indexer(self) -> bool:
        """Whether the indexer's choices can be recorded (our torch DSA model)."""

    def add(self, request: GenerateRequest) -> None:
        """Queue a request.

        Errors (ValueError): running id, empty or too long prompt, token outside the vocabulary, a JSON schema that
        cannot be enforced.
        """

    def step(self) -> list[tuple[str, Generation]]:
        """Go on sampling for a moment; returns what has finished, by request id."""

    def has_unfinished(self) -> bool:
        """Whether ``step`` still has something to do or to return."""

    def abort(self, request_id: str) -> Generation:
        """Stop a request and return what it has (finish_reason "abort"). Errors: KeyError, unknown id."""

    def update_weights(self, named: Mapping[str, torch.Tensor | np.ndarray], version: int) -> float:
        """Copy new weights in place, between two steps; returns the seconds it took.

        ``named``: the learner's state dict (HF names). Requests in flight continue under the new weights and
        keep their cache rows; the prefix cache is emptied and salted, so that new requests hit no row of
        older weights.
        Errors: missing, unknown or misshapen tensors, by name; nothing is changed then.
        """

    def receive_weights(self, meeting: Rendezvous, rank: int, host: str) -> list[Receipt]:
        """The same with weights that come in a stream, tensor by tensor: what each rank of the engine has received.

        ``rank``: of its first rank at ``meeting``; ``host``: address of this machine. Raises as ``Link.receive``
        (``rl.policy.weight_stream``); where the weights are neither the old nor the new ones then, the engine samples
        nothing until the next ones have come (``awaits``).
        """

    def send_weights(self, meeting: Rendezvous, host: str) -> list[Receipt]:
        """Its own weights to another engine of the same kind: rank by rank, each pair under ``meeting.key`` and its
        number (``rank_meeting``)."""

    def hold(self, why: str) -> None:
        """Sample nothing from now on, until weights have come (``awaits``)."""

    def score(self, tokens: list[int]) -> tuple[np.ndarray, ReplayRecord | None]:
        """Log-probs of tokens[1:] at temperature 1 (float32 [T-1]) and the choices made on the way.

        The record has the indexer's choices too, so that the learner can repeat this very forward pass: the
        probe after a weight sync compares numerics, not near-ties. Requests in flight advance meanwhile.
        Errors: fewer than 2 tokens, or T >= max_model_len.
        """

    def stats(self) -> EngineStats:
        """Totals so far (a copy)."""

    def close(self) -> None:
        """Release vLLM's executor. The engine cannot be used afterwards."""


def check_request(request: GenerateRequest, running: Container[str], max_model_len: int, vocab_size: int) -> None:
    """Raise ValueError for what no engine can sample: a running id, a prompt of no or too many tokens, a token outside
    the vocabulary, no token to sample."""
    prompt = request.prompt_tokens
    if request.request_id in running:
        raise ValueError(f"request_id={request.request_id!r} is already running: give each request its own id")
    if not 1 <= len(prompt) < max_model_len:
        raise ValueError(
            f"prompt_tokens of {request.request_id!r}: {len(prompt)} tokens; must be 1 to "
            f"{max_model_len - 1} (max_model_len leaves room for one sampled token)"
        )
    if min(prompt) < 0 or max(prompt) >= vocab_size:
        raise ValueError(
            f"prompt_tokens of {request.request_id!r} span {min(prompt)}..{max(prompt)}; the vocabulary "
            f"is 0..{vocab_size - 1}: tokenizer and policy do not belong together"
        )
    if request.max_tokens < 1:
        raise ValueError(f"max_tokens={request.max_tokens} of {request.request_id!r}: must be at least 1")


def rank_meeting(meeting: Rendezvous, rank: int) -> Rendezvous:
    """Of one rank of an engine with the same rank of another one."""
    return replace(meeting, key=f"{meeting.key}/{rank}", size=2)


def check_scored(tokens: Sequence[int]) -> None:
    """Raise ValueError where no log-prob could be given."""
    if len(tokens) < 2:
        raise ValueError(f"score: {len(tokens)} tokens; at least 2 are needed for one log-prob")


def replay_of(total: int, rows: Mapping[str, np.ndarray], support: Sequence[np.ndarray]) -> ReplayRecord | None:
    """The record of ``total`` tokens; None where nothing was recorded.

    ``rows``: fields of the record, each of the first tokens (as many in each). ``support``: of the last tokens, those
    that were sampled; empty when nothing was truncated.
    """
    if not rows and not support:
        return None
    known = min((len(first) for first in rows.values()), default=0)
    record = ReplayRecord(np.arange(total) < known)
    for name, first in rows.items():
        whole = np.zeros((total, *first.shape[1:]), first.dtype)
        whole[: len(first)] = first
        setattr(record, name, whole)
    if support:
        record.support = [None] * (total - len(support)) + list(support)
    return record
