"""Tokens that several packed sequences begin with, computed once: the rollouts of a group share their prompt.

    hidden(prefix) once, then hidden(rest | keys and values of the prefix), for every sequence that begins with it

Under causal attention keys and values of a prefix do not depend on what follows, so the result is that of the whole
sequences, and the gradient of the shared part is the sum over those that share it: each distinct token costs once. For
models of transformers whose layers all attend to everything before; the prefix's keys and values go through
transformers' own cache, with their graph.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

CALL = 64  # tokens that cost about as much as one more pass over all weights and their gradients does
WORTH = 16  # shared tokens below which a pass of its own is not worth it


@dataclass(frozen=True)
class Shared:
    """``members``: indices of sequences whose first ``length`` tokens are the same; each has more than those."""

    members: tuple[int, ...]
    length: int


def find_shared(tokens: Sequence[int], bounds: Sequence[int]) -> list[Shared]:
    """Groups of at least two packed sequences with a common beginning, such that fewest tokens are computed.

    ``bounds``: cu_seqlens. Sequences are compared in the order of their tokens, in which those with a common beginning
    are neighbours; one joins the group before it when that saves more than the prefix becomes shorter for the others.
    """
    sequences = [tuple(tokens[a:b]) for a, b in pairwise(bounds)]
    order = sorted(range(len(sequences)), key=lambda i: sequences[i])
    found: list[Shared] = []
    members: list[int] = []
    length = 0
    for i in order:
        if members:
            common = _common(sequences[members[0]], sequences[i], len(sequences[i]) - 1)
            common = min(common, length)
            if common >= WORTH and common > (len(members) - 1) * (length - common):
                members.append(i)
                length = common
                continue
            _close(found, members, length)
        members, length = [i], len(sequences[i]) - 1
    _close(found, members, length)
    return found


def _close(found: list[Shared], members: list[int], length: int) -> None:
    if len(members) > 1:
        found.append(Shared(tuple(members), length))


def _common(one: Sequence[int], other: Sequence[int], most: int) -> int:
    most = min(most, len(one), len(other))
    return next((at for at in range(most) if one[at] != other[at]), most)


def shared_hidden(
    model: Any, tokens_T: Tensor, bounds: Sequence[int], groups: Sequence[Shared]
) -> tuple[list[Tensor], list[Tensor]]:
    """Hidden states of the sequences in ``groups``: parts [n, hidden] and, for each, which tokens they are (int64 [n],
    places in ``tokens_T``; a shared token is there once for each of its sequences)."""
    from transformers import DynamicCache

    device = tokens_T.device
    begins = torch.tensor([bounds[g.members[0]] for g in groups], device=device)
    lengths = torch.tensor([g.length for g in groups], device=device)
    width = int(lengths.max())
    steps = torch.arange(width, device=device)
    inside = steps < lengths[:, None]  # [G, P]: what is not padding
    prefix = tokens_T[torch.where(inside, begins[:, None] + steps, begins[:, None])]
    done = model(input_ids=prefix, use_cache=True)
    cache, parts, places = done.past_key_values, [], []

    group_of = torch.tensor([n for n, g in enumerate(groups) for _ in g.members], device=device)
    members = [i for g in groups for i in g.members]
    starts = torch.tensor([bounds[i] for i in members], device=device)
    parts.append(done.last_hidden_state[group_of][inside[group_of]])
    places.append((starts[:, None] + steps)[inside[group_of]])

    rests = [bounds[i + 1] - bounds[i] - g.length for g in groups for i in g.members]
    for bucket in length_buckets(rests):
        chosen = torch.tensor(bucket, device=device)
        of, own = group_of[chosen], lengths[group_of[chosen]]  # tokens of each sequence that are shared
        after = torch.arange(max(rests[i] for i in bucket), device=device)
        real = after < torch.tensor([[rests[i]] for i in bucket], device=device)
        at = (starts[chosen] + own)[:, None] + after
        # Padding of shorter prefixes stands between prefix and rest: hidden by the mask, skipped by the positions.
        mask = torch.cat((inside[of], torch.ones_like(real)), dim=1)
        hidden = model(
            input_ids=tokens_T[torch.where(real, at, starts[chosen][:, None])], use_cache=True,
            past_key_values=DynamicCache([(layer.keys[of], layer.values[of]) for layer in cache.layers]),
            attention_mask=mask.long(), position_ids=own[:, None] + after,
        ).last_hidden_state  # fmt: skip
        parts.append(hidden[real])
        places.append(at[real])
    return parts, places


def length_buckets(lengths: Sequence[int], waste: float = 0.15, call: int = CALL) -> list[list[int]]:
    """Indices grouped so that padding each group to its longest member wastes at most ``waste`` of it and ``call``
    tokens."""
    buckets: list[list[int]] = []
    total = 0
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if buckets and total + lengths[i] >= (1 - waste) * lengths[buckets[-1][0]] * (len(buckets[-1]) + 1) - call:
            buckets[-1].append(i)
            total += lengths[i]
        else:
            buckets.append([i])
            total = lengths[i]
    return buckets


def can_share(model: Any) -> bool:
    """Whether a prefix of a transformers model can be computed alone: every layer sees all tokens before, and places
    come from ``position_ids`` alone, not from the mask (ALiBi) or from the whole length (some scalings of RoPE)."""
    config = model.config
    if "position_ids" not in inspect.signature(model.forward).parameters:
        return False
    if (getattr(config, "rope_parameters", None) or {}).get("rope_type") in ("dynamic", "longrope"):
        return False
    kinds = getattr(config, "layer_types", None)
    if kinds is not None:
        return set(kinds) == {"full_attention"}
    return getattr(config, "sliding_window", None) is None
