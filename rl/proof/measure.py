"""How well a policy plays the roles, measured against ground truth on rollouts of held-out tasks.

solved          share of proofs that are complete and rigorous (pass@1)
best_self       … of the proof that its own writer scores best, of k           (best@k, ties split fairly)
best_verifier   … that the judge scores best, of k
pass_any        … of at least one of k (pass@k): what selection could reach
self_score, self_error     mean s' of well-formed proofs, and |s' − s| with s the program's score: honesty
verify_right, verify_error, verify_analysis    score is the true one; |s' − s|; the program's rating of the analysis
assess_right    rating is the true one
refined         share of refined proofs that are complete and rigorous
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from rl.evaluation.estimators import best_of_k, pass_at_k

Parts = Mapping[str, float]


def role_figures(rows: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Figures of stored trajectories (rows of a trajectories file). Failed rollouts are left out; a role without
    rollouts has no figure; best@k and pass@k are over the samples that a task has left."""
    scored: dict[str, dict[str, list[Parts]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if "score/outcome" in row["reward_parts"]:
            scored[row["family"]][row["task_id"]].append(row["reward_parts"])
    figures: dict[str, float] = {}
    if prove := scored.get("prove"):
        figures |= _proofs(list(prove.values()))
    if refine := scored.get("refine"):
        figures["refined"] = _mean(_flat(refine.values()), "score/outcome")
    if verify := scored.get("verify"):
        parts = _flat(verify.values())
        names = {"right": "outcome", "error": "error", "analysis": "analysis"}
        figures |= {f"verify_{name}": _mean(parts, f"score/{key}") for name, key in names.items()}
    if assess := scored.get("assess"):
        figures["assess_right"] = _mean(_flat(assess.values()), "score/outcome")
    return {name: round(value, 4) for name, value in figures.items()}


def _proofs(tasks: Sequence[Sequence[Parts]]) -> dict[str, float]:
    every = _flat(tasks)
    formed = [parts for parts in every if parts["score/formatted"] == 1.0]
    figures = {
        "solved": _mean(every, "score/outcome"),
        "formatted": _mean(every, "score/formatted"),
        "best_self": fmean(_best(parts, "score/self_score") for parts in tasks),
        "pass_any": fmean(pass_at_k([p["score/outcome"] for p in parts], len(parts)) for parts in tasks),
    }
    if formed:
        figures |= {"self_score": _mean(formed, "score/self_score"), "self_error": _mean(formed, "score/error")}
    if any("generator/verifier_score" in parts for parts in every):
        figures["best_verifier"] = fmean(_best(parts, "generator/verifier_score") for parts in tasks)
    return figures


def _best(parts: Sequence[Parts], score: str) -> float:
    outcomes = [p["score/outcome"] for p in parts]
    # What is not well-formed has no score of its own, not a score of 0.
    scores = [p.get(score) if p["score/formatted"] == 1.0 else None for p in parts]
    return best_of_k(scores, outcomes, len(parts))


def _flat(groups: Iterable[Sequence[Parts]]) -> list[Parts]:
    return [parts for group in groups for parts in group]


def _mean(parts: Sequence[Parts], key: str) -> float:
    return fmean(p[key] for p in parts)
