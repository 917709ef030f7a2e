"""What DSA adaptation is judged by: accuracy on held-out targets, and attention mass recalled by the top-k.

One forward pass per sequence gives both (``rl.policy.recall``), in the attention mode of the policy itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from rl.data.needles import NeedleDocument
from rl.policy.recall import CHOICES, FOUND, hidden_and_recall

if TYPE_CHECKING:
    from rl.data.needles import Sample
    from rl.policy.dsa import DSAPolicy

_DEPTHS = 10


@torch.no_grad()
def measure(policy: DSAPolicy, samples: Sequence[Sample], done: Callable[[int], None]) -> dict[str, Any]:
    """Teacher-forced accuracy and recall over ``samples``; ``done(n)`` is called after each.

    Returns ``accuracy`` (share of targets that are the arg-max), ``stderr`` (over sequences), ``by_sequence`` (accuracy
    of each, in their order: the same sequences of two policies are compared pair by pair), ``by_depth`` (accuracy
    in ten bins of the depth of what is retrieved, None where a bin is empty; only for samples with depths), ``found``
    (only for needle documents: share of the targets whose fact is among the rows chosen by the ``indexer``, and by the
    ``oracle``, in any layer) and ``mass``: per choice of rows (``recall.CHOICES``) the mean recall at positions that
    predict a target (``targets``), at all positions that see more than k rows (``all``), and ``targets_by_layer``.
    """
    right: list[np.ndarray] = []
    depths: list[np.ndarray] = []
    at_targets: dict[str, list[torch.Tensor]] = {choice: [] for choice in CHOICES}
    everywhere: dict[str, list[torch.Tensor]] = {choice: [] for choice in CHOICES}
    found: list[torch.Tensor] = []
    device = policy.module.lm_head.weight.device
    for n, sample in enumerate(samples):
        targets = np.flatnonzero(sample.loss_mask)
        tokens = torch.as_tensor(sample.tokens[: targets[-1]], dtype=torch.long, device=device)
        needed = None
        if isinstance(sample, NeedleDocument):
            needed = torch.full_like(tokens, -1)
            needed[sample.answer_at - 1] = torch.as_tensor(sample.fact_at, device=device)
        hidden, recall = hidden_and_recall(policy.module, tokens, [0, len(tokens)], policy.mode, needed_T=needed)
        predict = torch.as_tensor(targets - 1, device=device)
        greedy = policy.module.logits(hidden[predict]).argmax(-1).cpu().numpy()
        right.append(greedy == sample.tokens[targets])
        if sample.depth is not None:
            depths.append(sample.depth)
        for choice in CHOICES:
            everywhere[choice].append(recall[choice].cpu())
            at_targets[choice].append(recall[choice][:, predict].cpu())
        if needed is not None:  # who sees no more than k rows finds all of them
            found.append(torch.stack([recall[key][:, predict].nan_to_num(1.0).amax(0) for key in FOUND]).cpu())
        done(n + 1)
    shares = np.array([r.mean() for r in right])
    measured: dict[str, Any] = {
        "accuracy": float(np.concatenate(right).mean()),
        "stderr": float(shares.std(ddof=1) / np.sqrt(len(shares))) if len(shares) > 1 else 0.0,
        "by_sequence": shares.tolist(),
        "mass": {
            choice: {
                "targets": _mean(torch.cat(at_targets[choice], dim=1)),
                "all": _mean(torch.cat(everywhere[choice], dim=1)),
                "targets_by_layer": [_mean(layer) for layer in torch.cat(at_targets[choice], dim=1)],
            }
            for choice in CHOICES
        },
    }
    if found:
        indexer, oracle = torch.cat(found, dim=1).mean(1).tolist()
        measured["found"] = {"indexer": indexer, "oracle": oracle}
    if depths:
        measured["by_depth"] = _by_depth(np.concatenate(depths), np.concatenate(right))
    return measured


def table(result: dict[str, Any]) -> str:
    """The four measurements as a Markdown table."""
    lines = [
        f"Held-out sequences ({result['split']}): {result['held_out']} of {result['length']:,} tokens; "
        f"index_topk {result['index_topk']}. Mass: share of dense attention on\nthe chosen rows (dense: on the best "
        "possible ones).",
        "",
        "| policy | accuracy | mass where a target is predicted | mass, all positions |",
        "|---|---|---|---|",
    ]
    for state, measured in result["states"].items():
        mass = measured["mass"]["oracle" if state == "dense" else "indexer"]
        lines.append(
            f"| {state} | {measured['accuracy']:.3f} ± {measured['stderr']:.3f} "
            f"| {mass['targets']:.3f} | {mass['all']:.3f} |"
        )
    return "\n".join(lines)


def _by_depth(depth: np.ndarray, right: np.ndarray) -> list[float | None]:
    bins = np.minimum((depth * _DEPTHS).astype(int), _DEPTHS - 1)
    return [float(right[bins == b].mean()) if (bins == b).any() else None for b in range(_DEPTHS)]


def _mean(values: torch.Tensor) -> float | None:
    """Mean over what was measured; None where no query saw more than k rows."""
    mean = values.nanmean().item()
    return None if np.isnan(mean) else mean
