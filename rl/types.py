"""The nouns of training, on one page: token truth, replay records, groups, batches.

Shapes: T tokens of one segment, L MoE layers, K experts per token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from envs.types import StopReason

OUTCOME = "score/outcome"  # the environment's raw outcome, as rewards.compose.Reward.parts names it


@dataclass
class ReplayRecord:
    """Discrete choices made while sampling, to be repeated by the learner: one row per token of a segment.

    ``valid`` bool [T]: the token was the INPUT of a forward pass whose choices were recorded. The last
    sampled token was never an input, so its row is invalid.
    ``experts`` uint8/int16 [T, L_moe, K]: experts that pass chose (Keep Routing); None for dense models.
    ``indexer`` int16/int32 [T, layers, k]: positions the DSA indexer chose, -1 where fewer than k were
    visible; None unless asked for.
    ``support`` [T]: token ids that truncated sampling kept when it drew token t (Keep Sampling Mask); None
    where nothing was cut. This row belongs to token t as TARGET, the others to token t as input.
    """

    valid: np.ndarray
    experts: np.ndarray | None = None
    indexer: np.ndarray | None = None
    support: list[np.ndarray | None] | None = None

    def __post_init__(self) -> None:
        for name in ("experts", "indexer", "support"):
            rows = getattr(self, name)
            if rows is not None and len(rows) != len(self.valid):
                raise ValueError(
                    f"replay record: {name} has {len(rows)} rows, valid has {len(self.valid)}: one per token"
                )

    def first(self, count: int) -> ReplayRecord:
        """The record of the first ``count`` tokens."""
        return ReplayRecord(
            self.valid[:count],
            None if self.experts is None else self.experts[:count],
            None if self.indexer is None else self.indexer[:count],
            None if self.support is None else self.support[:count],
        )


@dataclass(frozen=True)
class Outline:
    """What planning has to know of a ``ReplayRecord`` (``rl.policy.record_outline``): its ``valid`` bool [T] and the
    names of what was ``recorded`` (experts, indexer, support); ``rows`` uint8 [T, W], equal where token and choices
    are; ``supports`` uint64 [T], equal where the support is, None where none was recorded."""

    valid: npt.NDArray[np.bool_]
    recorded: frozenset[str]
    rows: npt.NDArray[np.uint8]
    supports: npt.NDArray[np.uint64] | None


@dataclass(frozen=True)
class KeptRecord:
    """A ``ReplayRecord`` that is elsewhere, and ``fetch``ed when it is needed."""

    outline: Outline
    fetch: Callable[[], ReplayRecord]


@dataclass(frozen=True)
class ProbeScores:
    """What the learner computes on the probe: log-probs of tokens[1:], float32 [T-1], and how far an engine that holds
    the same weights may be from them (``tolerance``, nats).

    ``logprobs`` repeat the engine's choices. ``live``, float32 [T-1]: the same with the learner's own choices; None
    where none were recorded. ``routing_overlap``, ``indexer_overlap``: share of the engine's choices that are the
    learner's own too.
    """

    logprobs: np.ndarray
    tolerance: float
    live: np.ndarray | None = None
    routing_overlap: float | None = None
    indexer_overlap: float | None = None


@dataclass
class TokenStream:
    """Tokens and which of them are learned: ``tokens`` int32 [T]; ``loss_mask`` bool [T], True at targets."""

    tokens: np.ndarray
    loss_mask: np.ndarray

    def __post_init__(self) -> None:
        if len(self.loss_mask) != len(self.tokens):
            raise ValueError(f"loss_mask has {len(self.loss_mask)} rows for {len(self.tokens)} tokens")

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def targets(self) -> np.ndarray:
        """Positions of the target tokens, ascending."""
        return np.flatnonzero(self.loss_mask)

    @classmethod
    def language_modelling(cls, tokens: Sequence[int] | np.ndarray) -> TokenStream:
        """Every token but the first is a target."""
        array = np.asarray(tokens, dtype=np.int32)
        mask = np.ones(len(array), dtype=bool)
        mask[:1] = False
        return TokenStream(array, mask)


@dataclass
class Segment(TokenStream):
    """One append-only token stream: a prompt, sampled spans and environment spans.

    ``loss_mask`` is True where the policy sampled the token; ``logprobs`` float32 [T], natural log under the
    SAMPLING distribution, 0 where the mask is False; ``versions`` int32 [T], policy version that sampled the
    token, -1 elsewhere. ``replay``: what was recorded of choices; None where nothing was, or where it is ``kept``
    elsewhere.
    """

    logprobs: np.ndarray
    versions: np.ndarray
    replay: ReplayRecord | None = None
    kept: KeptRecord | None = None

    def exact(self, version: int) -> npt.NDArray[np.bool_]:
        """bool [T]: sampled tokens that, with everything sampled before them in the segment, came from ``version``.

        After a token of older weights none counts: a generation in flight continues on KV-cache rows of the older
        weights, and a row's recorded choice is that of its first forward pass, which a later turn need not have
        repeated. Only at these tokens do sampler and learner have to agree.
        """
        mask = self.loss_mask.astype(bool)
        older = mask & (self.versions != version)
        behind: npt.NDArray[np.bool_] = np.logical_or.accumulate(older)
        return mask & ~behind


@dataclass
class Usage:
    """Tokens of one trajectory or of many, as an API bills them: sums over all requests to the engine.

    ``prompt``: tokens sent, so that a turn's prompt counts the turns before it again; ``cached``: those of them that
    the engine found in its prefix cache. ``thinking`` (with its markers), ``tool`` (the markup of calls) and ``answer``
    (all the rest, end tokens included) are what was sampled, each token once.
    """

    requests: int = 0
    prompt: int = 0
    cached: int = 0
    thinking: int = 0
    tool: int = 0
    answer: int = 0

    @property
    def output(self) -> int:
        """Sampled tokens."""
        return self.thinking + self.tool + self.answer

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.requests + other.requests,
            self.prompt + other.prompt,
            self.cached + other.cached,
            self.thinking + other.thinking,
            self.tool + other.tool,
            self.answer + other.answer,
        )


@dataclass
class Trajectory:
    """One rollout of one task: segments (training samples), messages (the readable view), reward.

    ``failure_kind`` is None for a valid sample; otherwise the sample is masked from the loss and
    the advantage (infrastructure failures are never reward 0).
    """

    id: str
    task_id: str
    family: str
    segments: list[Segment]
    messages: list[dict[str, Any]]
    stop_reason: StopReason
    reward: float = 0.0
    reward_parts: dict[str, float] = field(default_factory=dict)
    failure_kind: str | None = None
    failure_detail: str = ""  # what went wrong, with the traceback where there is one
    turns: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    wall_s: float = 0.0
    usage: Usage = field(default_factory=Usage)

    @property
    def sampled_tokens(self) -> int:
        return int(sum(s.loss_mask.sum() for s in self.segments))

    @property
    def total_tokens(self) -> int:
        return int(sum(len(s) for s in self.segments))


@dataclass
class Group:
    """The ``group_size`` trajectories of one task, admitted at policy version ``version``.

    ``handed``: bytes of its arrays by part, as the worker had them. ``refs``: where the learner gets it from, when
    replay records are not here (``rl.policy.handover.GroupRefs``).
    """

    id: int
    task_index: int
    task_id: str
    family: str
    version: int
    trajectories: list[Trajectory] = field(default_factory=list)
    handed: dict[str, int] = field(default_factory=dict)
    refs: Any = field(default=None, repr=False, compare=False)

    def outcomes(self) -> list[float]:
        """Raw outcome scores of its valid trajectories, in order."""
        valid = [t for t in self.trajectories if t.failure_kind is None]
        return [t.reward_parts[OUTCOME] for t in valid if OUTCOME in t.reward_parts]
