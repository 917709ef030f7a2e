"""From a packed micro-batch to the log-probs of its targets: the one forward pass that all training uses.

The output head runs on the rows that predict a target only: logits [P, V] never exist for the (often four
times as many) prompt and environment tokens, and with ``head_rows`` never for all targets at once. Targets that
segments share (``MicroBatch.scored_P``) are scored once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.checkpoint import checkpoint

from rl.learner.packing import MicroBatch
from rl.objective.logprobs import TokenScores, scores_of_logits, support_bits, support_mask
from rl.objective.teaching import Lesson, lesson_of_logits, sampled_lesson
from rl.policy.api import Policy
from rl.policy.replay import Record, Replay
from rl.policy.sharding import reshard
from rl.types import ReplayRecord


def is_indexer(name: str) -> bool:
    """True for the parameters of DSA's lightning indexer (HF name: ``...self_attn.indexer...``)."""
    return ".indexer." in name


def device_of(policy: Policy) -> torch.device:
    """Device of the policy's parameters."""
    return next(policy.named_parameters())[1].device


@dataclass(frozen=True)
class Teacher:
    """What a teacher brings to a pass over a micro-batch: its hidden states where targets are scored, and its head.

    Its logits are made next to the policy's, a piece at a time (``head_rows``), and again in the backward pass: hidden
    states are all that is kept of them. ``top_k``: as in ``rl.objective.teaching.reverse_kl``.
    """

    hidden_PD: torch.Tensor
    head: Callable[[torch.Tensor], torch.Tensor]
    top_k: int | None


def packed_scores(
    policy: Policy,
    batch: MicroBatch,
    *,
    temperature: float = 1.0,
    replay: Replay | None = None,
    record: Record | None = None,
    sampling_mask: bool = True,
    head_rows: int | None = None,
) -> TokenScores:
    """Log-probs (with gradient), entropies and greedy hits of the targets of ``batch``.

    ``sampling_mask``: on the support that the sampler kept, where it cut (Keep Sampling Mask). ``head_rows``: the head
    runs on so many targets at once, and again in the backward pass: [head_rows, V] is then the largest tensor of it.
    """
    hidden_PD = packed_states(policy, batch, replay, record)
    if policy.ops.head_scores is None:
        return TokenScores(*_columns(policy, batch, hidden_PD, temperature, sampling_mask, head_rows))
    targets_P, support_P = _targets(batch, sampling_mask)  # no tensor of it is that large
    bits = None if support_P is None else support_bits(support_P, targets_P, policy.vocab_size)
    columns = policy.ops.head_scores(hidden_PD, policy.head_weight(), targets_P, temperature, bits)
    return TokenScores(*_spread(batch, columns))


def scores_and_lesson(
    policy: Policy,
    batch: MicroBatch,
    teacher: Teacher | TokenScores | None,
    *,
    temperature: float = 1.0,
    replay: Replay | None = None,
    record: Record | None = None,
    sampling_mask: bool = True,
    head_rows: int | None = None,
) -> tuple[TokenScores, Lesson | None]:
    """``packed_scores``, and what the teacher makes of them: its KL over the whole vocabulary, with gradient (by a
    ``Teacher``; the same pass, the same head), or that of the sampled tokens (by its own ``TokenScores``)."""
    if isinstance(teacher, Teacher):
        hidden_PD = packed_states(policy, batch, replay, record)
        columns = _columns(policy, batch, hidden_PD, temperature, sampling_mask, head_rows, teacher)
        own = len(TokenScores._fields)
        return TokenScores(*columns[:own]), Lesson(*columns[own:])
    scores = packed_scores(
        policy, batch, temperature=temperature, replay=replay, record=record, sampling_mask=sampling_mask,
        head_rows=head_rows,
    )  # fmt: skip
    return scores, None if teacher is None else sampled_lesson(scores.logprobs_N, teacher)


def packed_states(
    policy: Policy, batch: MicroBatch, replay: Replay | None = None, record: Record | None = None
) -> torch.Tensor:
    """Hidden states [P, hidden] that predict the scored targets of ``batch``; of one that ranks share, this one's."""
    if batch.share is not None:
        split = batch.share.split
        return policy.packed_hidden(split.of_rows(batch.tokens_T), split, replay, record, rows=batch.share.rows)
    rows = batch.predict_N[batch.scored_P]
    return policy.packed_hidden(batch.tokens_T, batch.tree or batch.cu_seqlens, replay, record, rows=rows)


def _targets(batch: MicroBatch, sampling_mask: bool) -> tuple[torch.Tensor, list[np.ndarray | None] | None]:
    """The scored targets [P], of those that ranks share this one's, and what the sampler kept where it drew them."""
    at, support = batch.scored_P, batch.support_N if sampling_mask else None
    if batch.share is not None:
        at = at[batch.share.mine]
    if support is not None and batch.tree is not None:
        support = [support[n] for n in at.tolist()]
    return batch.targets_N[at], support


def _columns(
    policy: Policy,
    batch: MicroBatch,
    hidden_PD: torch.Tensor,
    temperature: float,
    sampling_mask: bool,
    head_rows: int | None,
    teacher: Teacher | None = None,
) -> Sequence[torch.Tensor]:
    """The columns [N] of ``TokenScores``, behind them with a ``teacher`` those of ``Lesson``; from logits."""
    targets_P, support_P = _targets(batch, sampling_mask)

    def score(hidden: torch.Tensor, begin: int, end: int) -> tuple[torch.Tensor, ...]:
        mask = None
        if support_P is not None:
            mask = support_mask(support_P[begin:end], targets_P[begin:end], policy.vocab_size)
        logits = policy.logits(hidden)
        scores = scores_of_logits(logits, targets_P[begin:end], temperature, mask)
        if teacher is None:
            return scores
        with torch.no_grad():
            its_logits = teacher.head(teacher.hidden_PD[begin:end])
        return *scores, *lesson_of_logits(logits, its_logits, targets_P[begin:end], temperature, teacher.top_k)

    targets = len(targets_P)
    if head_rows is None or targets <= head_rows:
        return _spread(batch, score(hidden_PD, 0, targets))
    parts = []
    for begin in range(0, targets, head_rows):
        end = min(begin + head_rows, targets)
        chunk = (score, hidden_PD[begin:end], begin, end)
        parts.append(checkpoint(*chunk, use_reentrant=False) if torch.is_grad_enabled() else score(*chunk[1:]))
    return _spread(batch, [torch.cat(column) for column in zip(*parts, strict=True)])


def _spread(batch: MicroBatch, columns: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
    """Of the scored targets to all of them, on whatever rank they were scored."""
    if batch.share is not None:
        columns = batch.share.gather(columns)
    return columns if batch.tree is None else [column[batch.score_N] for column in columns]


def sequence_logprobs(
    policy: Policy, tokens: Sequence[int] | np.ndarray, replay: ReplayRecord | None, device: torch.device
) -> torch.Tensor:
    """float32 [T-1]: log-prob of tokens 1..T-1 of one sequence, at temperature 1 over the whole vocabulary. ``replay``:
    choices to force."""
    return _logprobs(policy, tokens, None if replay is None else _choices(replay, device, force=True), device)


def live_logprobs(
    policy: Policy, tokens: Sequence[int] | np.ndarray, recorded: ReplayRecord, device: torch.device
) -> tuple[torch.Tensor, Replay]:
    """``sequence_logprobs`` with the policy's own choices, and how far these are the ``recorded`` ones (the overlaps of
    the Replay)."""
    compared = _choices(recorded, device, force=False)
    return _logprobs(policy, tokens, compared, device), compared


def _choices(record: ReplayRecord, device: torch.device, force: bool) -> Replay:
    def tensor(recorded: np.ndarray | None) -> torch.Tensor | None:
        if recorded is None:
            return None
        wide = recorded if recorded.dtype == bool else recorded.astype(np.int64)
        return torch.tensor(wide, device=device)

    return Replay(
        tensor(record.experts), tensor(record.valid), tensor(record.indexer), force_experts=force, force_indexer=force
    )


def _logprobs(
    policy: Policy, tokens: Sequence[int] | np.ndarray, replay: Replay | None, device: torch.device
) -> torch.Tensor:
    ids = torch.as_tensor(np.asarray(tokens), dtype=torch.long, device=device)
    logits_TV = policy.packed_logits(ids, [0, len(ids)], replay)[:-1].float()
    reshard(policy)
    return logits_TV.log_softmax(-1).gather(1, ids[1:, None]).squeeze(1)
