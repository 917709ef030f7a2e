"""Verified data of specialists, and the one policy distilled from it (V3.2 sec. 3).

    D = union over families f of { o ~ pi_f(. | q), q in the training split : the environment's outcome of o is 1 }
    theta = argmin - mean over sampled tokens of D of log pi_theta(o_t | q, o_<t),   from the cold start

A specialist's rollouts are trained on as the token ids that it sampled; nothing is rendered or tokenised again.
Environment spans stay in the context with a loss mask of False.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rl.data.corpus import Document
from rl.types import OUTCOME, Trajectory

if TYPE_CHECKING:
    from configs.schema import DistillConfig
    from rl.learner.trainer import Means
    from rl.run.job import Report

FULL_SCORE = 1.0
FIGURES = "distill.json"


def verified(trajectories: Sequence[Trajectory], keep_per_task: int) -> tuple[list[Trajectory], dict[str, int]]:
    """(kept, counts): the rollouts with the full outcome score, each token stream once, at most ``keep_per_task`` of a
    task, in the order given.

    counts: ``sampled`` = ``kept`` + ``failed`` (infrastructure) + ``unverified`` (no score) + ``not_passed`` +
    ``duplicate`` + ``over_cap``.
    """
    counts = Counter(sampled=len(trajectories))
    seen: dict[str, set[bytes]] = {}
    kept_of: Counter[str] = Counter()
    kept = []
    for t in trajectories:
        streams = seen.setdefault(t.task_id, set())
        stream = b"|".join(s.tokens.astype(np.int32).tobytes() + s.loss_mask.tobytes() for s in t.segments)
        if t.failure_kind is not None:
            why = "failed"
        elif OUTCOME not in t.reward_parts:
            why = "unverified"
        elif t.reward_parts[OUTCOME] < FULL_SCORE or t.sampled_tokens == 0:
            why = "not_passed"
        elif stream in streams:
            why = "duplicate"
        elif kept_of[t.task_id] >= keep_per_task:
            why = "over_cap"
        else:
            why = "kept"
            kept.append(t)
            kept_of[t.task_id] += 1
            streams.add(stream)
        counts[why] += 1
    names = ("sampled", "kept", "failed", "unverified", "not_passed", "duplicate", "over_cap")
    return kept, {name: counts[name] for name in names}


def distill(
    start: Path, config: DistillConfig, data: Sequence[Document], seed: int, out: Path, report: Report,
    means: Means | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Train the policy of ``start`` on ``data``; policy, tokenizer and figures (distill.json) go into ``out``."""
    from rl.recipes.supervised import supervised

    if not data:
        raise ValueError(
            "distillation has no data: no specialist made a rollout with the full score; raise "
            "pipeline.specialist_steps or pipeline.data_tasks, and look at data/* in metrics.jsonl"
        )
    started = time.perf_counter()
    figures = supervised(start, config, data, seed, out, report, means)
    figures |= {
        "documents_per_family": dict(Counter(d.source for d in data)),
        "target_tokens": int(sum(d.loss_mask.sum() for d in data)),
        "wall_s": round(time.perf_counter() - started, 1),
    }
    (out / FIGURES).write_text(json.dumps(figures, indent=1) + "\n")
    return figures
