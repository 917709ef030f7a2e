"""Verified data of specialists, and the one policy distilled from it (recipe 2.1).

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

from .corpus import Document
from .pretrain import Report
from .tracking.evaluation import OUTCOME
from .types import Trajectory

if TYPE_CHECKING:
    from configs.schema import DistillConfig

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


def documents(trajectories: Sequence[Trajectory]) -> list[Document]:
    """One document per segment with sampled tokens: its token ids and loss mask as they are."""
    return [
        Document(segment.tokens, segment.loss_mask, t.family)
        for t in trajectories
        for segment in t.segments
        if segment.loss_mask.any()
    ]


def save_data(path: Path, trajectories: Sequence[Trajectory]) -> None:
    """The kept rollouts as a ``datasets`` directory: one row per segment, readable messages beside the token truth.

    No rollout makes an empty directory (``datasets`` cannot read one of its own that has no row).
    """
    from datasets import Dataset, Features, Value, disable_progress_bars
    from datasets import Sequence as Rows

    disable_progress_bars()  # the run shows its own
    features = Features(
        {
            "task_id": Value("string"),
            "family": Value("string"),
            "outcome": Value("float64"),
            "messages": Value("string"),
            "tokens": Rows(Value("int32")),
            "loss_mask": Rows(Value("bool")),
        }
    )
    path.mkdir(parents=True, exist_ok=True)
    rows = [(t, document) for t in trajectories for document in documents([t])]
    if not rows:
        return
    columns = {
        "task_id": [t.task_id for t, _ in rows],
        "family": [t.family for t, _ in rows],
        "outcome": [t.reward_parts[OUTCOME] for t, _ in rows],
        "messages": [json.dumps(t.messages, ensure_ascii=False) for t, _ in rows],
        "tokens": [document.tokens for _, document in rows],
        "loss_mask": [document.loss_mask for _, document in rows],
    }
    Dataset.from_dict(columns, features=features).save_to_disk(str(path))


def load_data(path: Path) -> list[Document]:
    """The documents that ``save_data`` has written."""
    from datasets import load_from_disk

    if not any(path.iterdir()):
        return []
    rows: Any = load_from_disk(str(path))
    return [
        Document(np.asarray(row["tokens"], np.int32), np.asarray(row["loss_mask"], bool), row["family"]) for row in rows
    ]


def distill(
    start: Path, config: DistillConfig, data: Sequence[Document], seed: int, out: Path, report: Report
) -> dict[str, Any]:
    """Train the policy of ``start`` on ``data``; policy, tokenizer and figures (distill.json) go into ``out``."""
    from .coldstart import supervised

    if not data:
        raise ValueError(
            "distillation has no data: no specialist made a rollout with the full score; raise "
            "pipeline.specialist_steps or pipeline.data_tasks, and look at data/* in metrics.jsonl"
        )
    started = time.perf_counter()
    figures = supervised(start, config, data, seed, out, report)
    figures |= {
        "documents_per_family": dict(Counter(d.source for d in data)),
        "target_tokens": int(sum(d.loss_mask.sum() for d in data)),
        "wall_s": round(time.perf_counter() - started, 1),
    }
    (out / FIGURES).write_text(json.dumps(figures, indent=1) + "\n")
    return figures
