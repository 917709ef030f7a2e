"""Where the difference between learner and sampler comes from: one forward pass per part that is switched off.

    d_t = log pi_learner(o_t) - log pi_sampler(o_t),      r_t = exp(d_t)

With every recorded choice repeated and equal weights, what is left of d is numerics. Tokens of older weights
add staleness. Letting the router or the indexer choose live adds their flips, scoring over the whole vocabulary
adds -d = -log Z_S of truncated sampling (V3.2 sec. 3.1).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from rl.learner.forward import device_of, is_indexer, packed_scores
from rl.learner.pack_item import PackItem
from rl.learner.packing import MicroBatch, best_fit_decreasing, collate
from rl.objective.diagnostics import percentile
from rl.policy.api import Policy
from rl.policy.replay import Replay
from rl.types import Group

Part = Literal["routing", "truncation", "indexer"]
PARTS: tuple[Part, ...] = ("routing", "truncation", "indexer")
REPLAYED, NOTHING = "everything replayed", "nothing replayed"
# setting → the parts that are switched off in it
SETTINGS: dict[str, tuple[Part, ...]] = {
    REPLAYED: (),
    "routing live": ("routing",),
    "whole vocabulary": ("truncation",),
    "indexer live": ("indexer",),
    NOTHING: PARTS,
}
OUTSIDE = (0.9, 1.1)  # token ratios outside of it are counted


class _Agreement(NamedTuple):
    """Live against recorded choices of a part, over the R input tokens with a recorded choice.

    ``flips_N``: of the segment's input tokens up to the one that predicts token n, those that chose otherwise.
    ``owner_R`` index of the PackItem; ``other_R``: another choice in some layer; ``overlap_R``: share of the recorded
    choice that was chosen live, mean over layers.
    """

    flips_N: np.ndarray
    owner_R: np.ndarray
    other_R: np.ndarray
    overlap_R: np.ndarray


@dataclass
class _Tokens:
    """The sampled tokens of all segments in one order: N targets, and per setting what the learner makes of them.

    ``owner_N`` index of the PackItem, ``position_N`` in its segment, ``sampler_N`` log-probs, ``exact_N``: drawn by
    these very weights. ``learner[setting]`` log-probs [N], float64 as all here."""

    owner_N: np.ndarray
    position_N: np.ndarray
    sampler_N: np.ndarray
    exact_N: np.ndarray
    learner: dict[str, np.ndarray]
    agreement: dict[Part, _Agreement]


@torch.no_grad()
def attribute(
    policy: Policy,
    groups: Sequence[Group],
    version: int,
    *,
    temperature: float = 1.0,
    truncated: bool = False,
    max_tokens: int = 8192,
    worst: int = 5,
    on_pass: Callable[[str, int, int], None] = lambda setting, done, total: None,
) -> dict[str, Any]:
    """The attribution of one batch as JSON values; ``policy`` holds the weights of ``version``.

    ``truncated``: the sampler cut tokens (top-p, top-k, min-p). Masked trajectories are left out, as in training.
    Returns ``tokens`` {"exact", "older"}, ``measured_on`` "exact" | "all", ``rows`` (one per part, see ``_row``) and
    ``worst``: {setting: the ``worst`` tokens with the largest |d| in it}.
    Raises ValueError when there is no sampled token, or when log-probs are not finite.
    """
    names, items, exact = _items(groups, version)
    if not items:
        raise ValueError("the batch has no sampled token: every trajectory was masked (failure_kind)")
    states = {part: _state(part, policy, items, truncated) for part in PARTS}
    on = [part for part, state in states.items() if state is None]
    settings = {name: off for name, off in SETTINGS.items() if not off or any(part in on for part in off)}
    tokens = _scores(policy, items, exact, settings, temperature, max_tokens, on_pass)
    if "indexer" in on and not len(tokens.agreement["indexer"].other_R):
        states["indexer"] = ("not in use", "no token sees more than index_topk others: nothing is chosen")
        settings.pop("indexer live")
    counted = tokens.exact_N if tokens.exact_N.any() else np.ones_like(tokens.exact_N)
    rows = [_row("numerics", REPLAYED, tokens, counted), _staleness(tokens)]
    for part in PARTS:
        setting = next(name for name, off in SETTINGS.items() if off == (part,))
        state = states[part]
        rows.append(_row(part, setting, tokens, counted, part) if state is None else _absent(part, setting, *state))
    total = NOTHING if NOTHING in settings else REPLAYED
    rows.append(_row("total", NOTHING, tokens, counted, of=total))
    return {
        "tokens": {"exact": int(tokens.exact_N.sum()), "older": int((~tokens.exact_N).sum())},
        "measured_on": "exact" if tokens.exact_N.any() else "all",
        "rows": rows,
        "worst": {
            name: _worst(name, tokens, counted, worst, names, items, list(settings))
            for name in (REPLAYED, "routing live", "indexer live", NOTHING)
            if name in settings
        },
    }


def _items(groups: Sequence[Group], version: int) -> tuple[list[tuple[str, int]], list[PackItem], list[np.ndarray]]:
    """(trajectory id, segment), its PackItem and its exact tokens, for each segment with a sampled token."""
    names, items, exact = [], [], []
    for trajectory in (t for g in groups for t in g.trajectories if t.failure_kind is None):
        for number, s in enumerate(trajectory.segments):
            if s.loss_mask.any():
                names.append((trajectory.id, number))
                name = f"trajectory {trajectory.id} segment {number}"
                items.append(PackItem(s.tokens, s.loss_mask, logprobs=s.logprobs, replay=s.replay, name=name))
                exact.append(s.exact(version))
    return names, items, exact


def _state(part: Part, policy: Policy, items: Sequence[PackItem], truncated: bool) -> tuple[str, str] | None:
    """None where ``part`` was recorded, else ("not in use" | "not recorded", why and what to do)."""
    records = [item.replay for item in items if item.replay is not None]
    if part == "routing":
        if not policy.num_moe_layers:
            return "not in use", "the policy has no MoE layers"
        recorded, cure = any(r.experts is not None for r in records), "replay.routing=force or check records it"
    elif part == "indexer":
        if policy.mode == "dense" or not any(is_indexer(name) for name, _ in policy.named_parameters()):
            return "not in use", "the policy attends to everything: it has no indexer"
        recorded, cure = any(r.indexer is not None for r in records), "replay.indexer=check records it"
    else:
        recorded, cure = any(r.support is not None for r in records), "replay.sampling_mask=auto records it"
        if not recorded and not truncated:
            return "not in use", "rollout.top_p, top_k and min_p cut nothing"
    return None if recorded else ("not recorded", cure)


def _scores(
    policy: Policy,
    items: Sequence[PackItem],
    exact: Sequence[np.ndarray],
    settings: dict[str, tuple[Part, ...]],
    temperature: float,
    max_tokens: int,
    on_pass: Callable[[str, int, int], None],
) -> _Tokens:
    """Runs every setting over the packed items."""
    bins = best_fit_decreasing([item.inputs for item in items], max_tokens)
    order = [i for members in bins for i in members]  # collate keeps it, with targets ascending
    owner = np.concatenate([np.full(len(items[i].targets), i) for i in order])
    position = np.concatenate([items[i].targets for i in order])
    parts: dict[str, list[np.ndarray]] = {name: [] for name in settings}
    found: dict[Part, list[_Agreement]] = {"routing": [], "indexer": []}
    sampler = []
    for number, members in enumerate(bins):
        batch = collate([items[i] for i in members], device_of(policy))
        sampler.append(batch.sampler_logprobs_N.double().cpu().numpy())
        for name, off in settings.items():
            on_pass(name, number, len(bins))
            replay = _replay(batch, off)
            masked = "truncation" not in off
            scores = packed_scores(policy, batch, temperature=temperature, replay=replay, sampling_mask=masked)
            parts[name].append(scores.logprobs_N.double().cpu().numpy())
            for part in found:
                if off == (part,):
                    found[part].append(_agreement(batch, members, replay, part))
    learner = {name: np.concatenate(values) for name, values in parts.items()}
    for name, values in learner.items():
        if bad := int((~np.isfinite(values)).sum()):
            raise ValueError(
                f"{bad} of {len(values)} log-probs are not finite with {name}: it has diverged; take an earlier step"
            )
    return _Tokens(
        owner,
        position,
        np.concatenate(sampler),
        np.concatenate([exact[i][items[i].targets] for i in order]),
        learner,
        {p: _Agreement(*map(np.concatenate, zip(*f, strict=True))) for p, f in found.items() if f},
    )


def _replay(batch: MicroBatch, off: Sequence[Part]) -> Replay | None:
    """The recorded choices, those of the parts in ``off`` only compared with the live ones."""
    if batch.replay_valid_T is None:
        return None
    return Replay(
        experts=batch.experts_TLK,
        valid=batch.replay_valid_T,
        indexer=batch.indexer_TLk,
        force_experts="routing" not in off,
        force_indexer="indexer" not in off,
    )


def _agreement(batch: MicroBatch, members: Sequence[int], replay: Replay | None, part: Part) -> _Agreement:
    """Live against recorded choices of one micro-batch in which ``part`` chose live; replay None: none recorded."""
    recorded = batch.experts_TLK if part == "routing" else batch.indexer_TLk
    lengths = np.diff(batch.cu_seqlens)
    first_T, other_T = np.repeat(batch.cu_seqlens[:-1], lengths), np.zeros(len(batch.tokens_T), bool)
    rows_T, overlap_R = other_T.copy(), np.zeros(0)
    if replay is not None and replay.valid is not None and recorded is not None:
        rows_T = replay.valid.cpu().numpy()
        if part == "indexer":  # only rows that see more than k others choose at all
            rows_T = rows_T & (np.arange(len(rows_T)) - first_T >= recorded.shape[2])
        overlaps = replay.expert_overlaps if part == "routing" else replay.indexer_overlaps
        overlap_LR = torch.cat(overlaps).view(recorded.shape[1], -1).double().cpu().numpy()
        other_T[rows_T], overlap_R = (overlap_LR < 1.0).any(0), overlap_LR.mean(0)
    so_far = np.concatenate([[0], np.cumsum(other_T)])
    predict_N = batch.predict_N.cpu().numpy()
    flips_N = so_far[predict_N + 1] - so_far[first_T[predict_N]]
    return _Agreement(flips_N, np.repeat(members, lengths)[rows_T], other_T[rows_T], overlap_R)


def _row(
    name: str, setting: str, tokens: _Tokens, counted_N: np.ndarray, part: Part | None = None, of: str | None = None
) -> dict[str, Any]:
    """One measured row: |d| in nats (mean, p99, max), share of ratios outside [0.9, 1.1], agreement of the choice."""
    d = (tokens.learner[of or setting] - tokens.sampler_N)[counted_N]
    size, ratio = np.abs(d), np.exp(d)
    row: dict[str, Any] = {
        "part": name,
        "setting": setting,
        "status": "measured",
        "tokens": len(d),
        "mean": float(size.mean()),
        "p99": percentile(torch.from_numpy(size), 0.99),
        "max": float(size.max()),
        "outside": float(((ratio < OUTSIDE[0]) | (ratio > OUTSIDE[1])).mean()),
    }
    if part is not None and part in tokens.agreement:
        found = tokens.agreement[part]
        of_counted = np.isin(found.owner_R, tokens.owner_N[counted_N])
        if of_counted.any():
            other, overlap = found.other_R[of_counted], found.overlap_R[of_counted]
            row["choices"] = {"rows": len(other), "other": int(other.sum()), "overlap": float(overlap.mean())}
    return row


def _absent(name: str, setting: str, status: str, why: str) -> dict[str, Any]:
    return {"part": name, "setting": setting, "status": status, "why": why}


def _staleness(tokens: _Tokens) -> dict[str, Any]:
    setting = "with tokens of older weights"
    if tokens.exact_N.all():
        return _absent("staleness", setting, "not in use", "every token was sampled by these weights")
    if not tokens.exact_N.any():
        why = "no token was sampled by these weights: every row holds staleness too"
        return _absent("staleness", setting, "not separable", why)
    return _row("staleness", setting, tokens, np.ones_like(tokens.exact_N), of=REPLAYED)


def _worst(
    setting: str,
    tokens: _Tokens,
    counted_N: np.ndarray,
    count: int,
    names: Sequence[tuple[str, int]],
    items: Sequence[PackItem],
    settings: Sequence[str],
) -> list[dict[str, Any]]:
    """The tokens with the largest |d| in ``setting``, with their log-probs in every setting."""
    size = np.where(counted_N, np.abs(tokens.learner[setting] - tokens.sampler_N), -1.0)
    found = []
    for n in np.argsort(-size, kind="stable")[: min(count, int(counted_N.sum()))]:
        owner, position = int(tokens.owner_N[n]), int(tokens.position_N[n])
        found.append(
            {
                "trajectory": names[owner][0],
                "segment": names[owner][1],
                "position": position,
                "token": int(items[owner].tokens[position]),
                "sampler": float(tokens.sampler_N[n]),
                "learner": {name: float(tokens.learner[name][n]) for name in settings},
                "flips": {part: int(a.flips_N[n]) for part, a in tokens.agreement.items()},
            }
        )
    return found
