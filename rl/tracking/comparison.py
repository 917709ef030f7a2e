"""Accuracy, tokens and cost of several policies or models side by side (`rl-compare`).

Every answer is one attempt: cost per answer = cost / answers, cost per solved task = cost of all answers / answers that
were right.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from configs.schema import CompareConfig
    from rl.tracking.cost import CostConfig, Price
    from rl.tracking.recorded import Answer

CONFIDENCE = 0.95


def compare(cfg: CompareConfig) -> dict[str, Any]:
    """``{"models": [row, …], "tasks": {"common", "all"}, "currency"}``, rows in the order of the sources.

    Raises ValueError: no source, a label that two sources share, a model without a price, no common task.
    """
    from rl.tracking.recorded import read_answers

    if not cfg.sources:
        raise ValueError("sources is empty: give run directories, rl-eval outputs or .jsonl files, sources=[a,b]")
    models: dict[str, list[Answer]] = {}
    for source in cfg.sources:
        for label, answers in read_answers(source).items():
            if label in models:
                raise ValueError(f"sources: two of them have answers of '{label}'; compare one, or join the files")
            models[label] = answers
    if unknown := sorted(set(cfg.price_as) - set(models)):
        raise ValueError(f"price_as.{unknown[0]}: nothing of that name is compared (there are: {', '.join(models)})")
    prices = {
        label: price_for(cfg.cost, cfg.price_as, label, rollouts=all(a.rollout for a in answers))
        for label, answers in models.items()
    }
    tasks = [{a.task_id for a in answers} for answers in models.values()]
    common, every = set.intersection(*tasks), set.union(*tasks)
    if cfg.common_tasks:
        if not common:
            raise ValueError("common_tasks=true: no task was answered by all of them")
        models = {label: [a for a in answers if a.task_id in common] for label, answers in models.items()}
    rows = [describe(label, answers, prices[label]) for label, answers in models.items()]
    return {
        "models": rows,
        "tasks": {"common": len(common), "all": len(common) if cfg.common_tasks else len(every)},
        "currency": cfg.cost.currency,
    }


def price_for(cost: CostConfig, price_as: Mapping[str, str], label: str, *, rollouts: bool) -> Price:
    """The price that ``label`` counts at: ``price_as``, else one of its own name, else ``cost.model`` for our rollouts.

    Raises ValueError: recorded answers of a model without a price.
    """
    from rl.tracking.cost import price_of

    if label in price_as:
        return price_of(cost, price_as[label], f"price_as.{label}")
    if label in cost.prices:
        return price_of(cost, label)
    if not rollouts:
        return price_of(cost, label, "model")
    if cost.model is None:
        raise ValueError(f"cost.model=null, but '{label}' needs a price: set cost.model or price_as")
    return price_of(cost, cost.model)


def describe(label: str, answers: Sequence[Answer], price: Price) -> dict[str, Any]:
    """One model's row: accuracy over tasks with its 95 % interval, tokens per answer, money."""
    import numpy as np

    from rl.tracking.cost import per_solved
    from rl.types import Usage

    usage = sum((a.usage for a in answers), Usage())
    tokens = np.array([a.usage.prompt + a.usage.output for a in answers])
    output = np.array([a.usage.output for a in answers])
    solved = sum(a.score is not None and a.score >= 1 for a in answers)
    cost = price.cost(usage)
    accuracy, interval = accuracy_of(answers)
    return {
        "model": label,
        "price": price.name,
        "answers": len(answers),
        "tasks": len({a.task_id for a in answers}),
        "judged": sum(a.score is not None for a in answers),
        "accuracy": accuracy,
        "ci95": interval,
        "tokens_mean": float(tokens.mean()),
        "tokens_p90": float(np.percentile(tokens, 90)),
        "prompt_mean": usage.prompt / len(answers),
        "cached_share": usage.cached / usage.prompt if usage.prompt else 0.0,
        "output_mean": float(output.mean()),
        "output_p90": float(np.percentile(output, 90)),
        "thinking_mean": usage.thinking / len(answers) if all(a.split for a in answers) else None,
        "cost": cost,
        "cost_per_answer": cost / len(answers),
        "solved": solved,
        "tokens_per_solved": per_solved(float(tokens.sum()), solved),
        "cost_per_solved": per_solved(cost, solved),
    }


def accuracy_of(answers: Sequence[Answer]) -> tuple[float | None, tuple[float, float] | None]:
    """Mean over tasks of the tasks' mean scores, and its 95 % interval (Wilson's, ``rl.evaluation.intervals``);
    (None, None) where nothing was judged."""
    from rl.evaluation.intervals import estimate

    by_task: dict[str, list[float]] = {}
    for a in answers:
        if a.score is not None:
            by_task.setdefault(a.task_id, []).append(a.score)
    if not by_task:
        return None, None
    means = [sum(scores) / len(scores) for scores in by_task.values()]
    found = estimate(means, sum(len(scores) for scores in by_task.values()), CONFIDENCE)
    return found.mean, found.wilson


HEAD = ("model", "answers", "accuracy (95 %)", "tokens, mean", "tokens, p90", "prompt", "output", "cost / answer",
        "cost / solved (n)")  # fmt: skip


def markdown(result: Mapping[str, Any]) -> str:
    """The table, and under it what every model took relative to the first."""
    from rl.tracking.cost import money

    currency, rows = result["currency"], result["models"]
    lines = ["| " + " | ".join(HEAD) + " |", "|---" + "|---:" * (len(HEAD) - 1) + "|"]
    for row in rows:
        cells = [
            row["model"],
            f"{row['answers']:,}",
            _accuracy(row),
            f"{row['tokens_mean']:,.0f}",
            f"{row['tokens_p90']:,.0f}",
            f"{row['prompt_mean']:,.0f}",
            f"{row['output_mean']:,.0f}",
            money(row["cost_per_answer"], currency),
            f"{money(row['cost_per_solved'], currency)} ({row['solved']:,})",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    first = rows[0]
    notes = []
    for row in rows[1:]:
        tokens, cost = (_ratio(row[key], first[key]) for key in ("tokens_mean", "cost_per_answer"))
        notes.append(f"- {row['model']}: {tokens} the tokens and {cost} the cost per answer of {first['model']}.")
    priced = [f"{row['model']} as {row['price']}" for row in rows if row["price"] != row["model"]]
    if priced:
        notes.append(f"- Priced: {', '.join(priced)}.")
    if result["tasks"]["common"] < result["tasks"]["all"]:
        notes.append(
            f"- The task sets differ: {result['tasks']['common']} of {result['tasks']['all']} tasks were answered by "
            "all; common_tasks=true compares these only."
        )
    return "\n".join(lines) + "\n" + ("\n" + "\n".join(notes) + "\n" if notes else "")


def _ratio(value: float, base: float) -> str:
    return f"{value / base:.3g} ×" if base else "–"


def _accuracy(row: Mapping[str, Any]) -> str:
    if row["accuracy"] is None:
        return "–"
    low, high = row["ci95"]
    return f"{row['accuracy']:.3f} ({low:.2f}–{high:.2f})"
