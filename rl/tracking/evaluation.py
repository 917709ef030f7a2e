"""Estimates of an evaluation: what rl.evaluation's formulas give for its samples, per family and over all tasks.

Entry ``estimates`` of an evaluation (of every family, and of all tasks together), by name::

    avg@4            mean outcome of the samples, with its intervals
    pass@1 …         some of k samples solves the task
    maj@2 …          majority vote of k samples, where samples give final answers at all
    best@2 …         best of k by ``eval.best_of``

each {"mean", "stderr", "n_tasks", "bootstrap": [low, high], "wilson": [low, high] or null}. ``n_tasks`` counts the
tasks that have k scored samples; the rest cannot say anything about k.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rl.evaluation.estimators import best_of_k, majority_at_k, mean, pass_at_k
from rl.evaluation.intervals import estimate, paired_difference, stderr
from rl.evaluation.votes import answer_key, answer_of
from rl.tracking.episodes import by_family
from rl.tracking.failures import failure
from rl.types import OUTCOME, Trajectory

if TYPE_CHECKING:
    from configs.schema import EvalConfig

NO_REWARD = ("reward_error", "reward_timeout")  # the environment scored the episode, a reward part did not
Tasks = Mapping[str, Sequence[Trajectory]]  # scored samples by task id


def eval_summary(trajectories: Iterable[Trajectory], config: EvalConfig | None = None) -> dict[str, Any]:
    """The evaluation table of one set of rollouts; with ``config`` also its estimates.

    Trajectories without a score (the environment died, or scoring did) are left out and counted as
    ``n_unscored``; ``k`` is the largest number of scored samples of a task.

    Raises:
        ValueError: no trajectory has a score, or none has the one named by ``config.best_of``.
    """
    families: dict[str, Any] = {}
    all_tasks: list[float] = []
    every: dict[str, list[Trajectory]] = {}
    k_max = 0
    trajectories = list(trajectories)
    if config is not None:
        check_best_of(trajectories, config.best_of)
    for family, members in by_family(trajectories).items():
        samples = scored_by_task(members)
        scored = [t for group in samples.values() for t in group]
        if not scored:
            continue
        tasks = task_means(samples)
        means = list(tasks.values())
        k = max(len(group) for group in samples.values())
        rewards = [t.reward for t in scored if t.failure_kind not in NO_REWARD]
        families[family] = {
            "avg@k": float(np.mean(means)),
            "stderr": stderr(means),
            "k": k,
            "n_tasks": len(means),
            "reward": float(np.mean(rewards)) if rewards else None,
            "sampled_tokens": float(np.mean([t.sampled_tokens for t in scored])),
            "n_unscored": len(members) - len(scored),
            "tasks": tasks,
        }
        if config is not None:
            families[family]["estimates"] = estimates(samples, config)
        every |= {f"{family}/{task}": group for task, group in samples.items()}
        all_tasks += means
        k_max = max(k_max, k)
    if not all_tasks:
        raise ValueError(f"evaluation has no scored trajectory: none has reward_parts['{OUTCOME}']{_why(trajectories)}")
    whole: dict[str, Any] = {
        "overall": float(np.mean(all_tasks)),
        "stderr": stderr(all_tasks),
        "k": k_max,
        "n_tasks": len(all_tasks),
        "families": families,
    }
    if config is not None:
        whole |= {"confidence": config.confidence, "estimates": estimates(every, config)}
    return whole


def _why(trajectories: Sequence[Trajectory]) -> str:
    """The commonest failure among ``trajectories``, with its reason, to put behind a sentence."""
    kinds = Counter(t.failure_kind for t in trajectories if t.failure_kind is not None)
    if not kinds:
        return ""
    ((kind, number),) = kinds.most_common(1)
    detail = next(t.failure_detail for t in trajectories if t.failure_kind == kind)
    return f"; {number} of {len(trajectories)} failed with {kind}: {failure(detail)}"


def scored_by_task(trajectories: Iterable[Trajectory]) -> dict[str, list[Trajectory]]:
    """Trajectories that have an outcome, by task."""
    tasks: dict[str, list[Trajectory]] = {}
    for t in trajectories:
        if OUTCOME in t.reward_parts:
            tasks.setdefault(t.task_id, []).append(t)
    return tasks


def task_means(tasks: Tasks) -> dict[str, float]:
    """avg@k of every task."""
    return {task: mean(_outcomes(samples)) for task, samples in tasks.items()}


def estimates(tasks: Tasks, config: EvalConfig) -> dict[str, Any]:
    """All estimates of these tasks, by name (see the module).

    Raises:
        ValueError: no sample has a score named ``config.best_of``.
    """
    if not tasks:
        return {}
    found = {f"avg@{max(map(len, tasks.values()))}": _over_tasks(tasks, 1, config, lambda s: mean(_outcomes(s)))}
    keys = {id(t): _vote(t) for samples in tasks.values() for t in samples}

    def majority(k: int) -> Callable[[Sequence[Trajectory]], float]:
        return lambda samples: majority_at_k([keys[id(t)] for t in samples], _outcomes(samples), k)

    def passed(k: int) -> Callable[[Sequence[Trajectory]], float]:
        return lambda samples: pass_at_k(_outcomes(samples), k)

    def best(k: int, part: str) -> Callable[[Sequence[Trajectory]], float]:
        return lambda samples: best_of_k([t.reward_parts.get(part) for t in samples], _outcomes(samples), k)

    sizes = config.sizes()
    found |= {f"pass@{k}": _over_tasks(tasks, k, config, passed(k)) for k in sizes}
    if any(key is not None for key in keys.values()):
        found |= {f"maj@{k}": _over_tasks(tasks, k, config, majority(k)) for k in sizes if k > 1}
    if config.best_of is not None:
        found |= {f"best@{k}": _over_tasks(tasks, k, config, best(k, config.best_of)) for k in sizes if k > 1}
    return {name: entry for name, entry in found.items() if entry is not None}


def check_best_of(trajectories: Iterable[Trajectory], best_of: str | None) -> None:
    """Raise ValueError when samples are to be ranked by a score that none of them has."""
    names = {name for t in trajectories for name in t.reward_parts}
    if best_of is not None and names and best_of not in names:
        raise ValueError(
            f"eval.best_of={best_of!r}: no sample has it; there are {', '.join(sorted(names))}. A reward part is known "
            "by its name, its details as <part>/<detail>, the environment's scores as score/<name>"
        )


def evaluation_metrics(result: Mapping[str, Any]) -> dict[str, float]:
    """An evaluation as metrics: ``eval/overall``, ``eval/family/…`` and every estimate under both."""
    metrics = {"eval/overall": result["overall"]}
    metrics |= {f"eval/overall/{name}": e["mean"] for name, e in result.get("estimates", {}).items()}
    for family, entry in result["families"].items():
        metrics[f"eval/family/{family}"] = entry["avg@k"]
        metrics |= {f"eval/family/{family}/{name}": e["mean"] for name, e in entry.get("estimates", {}).items()}
    return metrics


def estimate_table(evaluation: Mapping[str, Any] | None) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """(columns, rows): a row per estimate, a column per family, all tasks last; no rows without estimates."""
    if not evaluation or not evaluation.get("estimates"):
        return (), []
    columns = {name: family.get("estimates", {}) for name, family in sorted(evaluation["families"].items())}
    if len(columns) > 1:
        columns["overall"] = evaluation["estimates"]
    names = sorted({name for entry in columns.values() for name in entry}, key=_order)
    return ("estimate", *columns), [(n, *(interval_text(e.get(n)) for e in columns.values())) for n in names]


def interval_text(entry: Mapping[str, Any] | None) -> str:
    """``0.625 [0.41, 0.80]``: Wilson's interval, which has a width near 0 and 1 too; else the bootstrap's."""
    if entry is None:
        return "–"
    low, high = entry.get("wilson") or entry["bootstrap"]
    return f"{entry['mean']:.3f} [{low:.2f}, {high:.2f}]"


def paired(before: Mapping[str, Any], after: Mapping[str, Any], confidence: float) -> dict[str, Any] | None:
    """``after`` − ``before`` on the same tasks: {"overall", "families": {name: …}}; None where tasks are not known or
    none is in both (other environments)."""
    families: dict[str, Any] = {}
    first: dict[str, float] = {}
    second: dict[str, float] = {}
    for name, entry in after.get("families", {}).items():
        old, new = before.get("families", {}).get(name, {}).get("tasks"), entry.get("tasks")
        if old and new and old.keys() & new.keys():
            families[name] = paired_difference(old, new, confidence).to_json()
            first, second = first | old, second | new
    if not families:
        return None
    return {"overall": paired_difference(first, second, confidence).to_json(), "families": families}


def difference_text(entry: Mapping[str, Any]) -> str:
    """``+0.125 [+0.02, +0.23]``."""
    low, high = entry["bootstrap"]
    return f"{entry['mean']:+.3f} [{low:+.2f}, {high:+.2f}]"


def _over_tasks(
    tasks: Tasks, k: int, config: EvalConfig, figure: Callable[[Sequence[Trajectory]], float]
) -> dict[str, Any] | None:
    enough = [samples for samples in tasks.values() if len(samples) >= k]
    if not enough:
        return None
    values = [figure(samples) for samples in enough]
    return estimate(values, sum(map(len, enough)), config.confidence).to_json()


def _order(name: str) -> tuple[int, int]:
    kind, _, k = name.partition("@")
    return ("avg", "pass", "maj", "best").index(kind), int(k)


def _vote(trajectory: Trajectory) -> str | None:
    answer = answer_of(trajectory.messages)
    return None if answer is None else answer_key(answer)


def _outcomes(samples: Sequence[Trajectory]) -> list[float]:
    return [t.reward_parts[OUTCOME] for t in samples]
