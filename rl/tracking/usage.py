"""Token accounting: per family, per stage, per run, with cost.

summary.json::

    "usage": {"stages": {stage: {"kind", "families": {family: row}, "total": row}}, "total": row, "price": {...} | null}
    row = {"episodes", "scored", "solved", "requests", "prompt", "cached", "thinking", "tool", "answer",
           "tokens_per_solved", "cost", "cost_per_solved"}

``solved`` counts rollouts whose raw outcome is full (1); the tokens of all rollouts count, also of those that failed
or were masked: they were paid for. A stage's entry is replaced by its newer state, never added to, so that a run that
was stopped and resumed counts every step once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from typing import Any, Literal

from rl.tracking.cost import CostConfig, Price, money, per_solved, price_of
from rl.types import OUTCOME, Trajectory, Usage

Tally = dict[str, int]
Kind = Literal["rl", "data", "evaluation"]

FULL_SCORE = 1.0
TOKENS = ("prompt", "cached", "thinking", "tool", "answer")
COLUMNS = ("episodes", "scored", "solved", *(f.name for f in fields(Usage)))


def tally(trajectories: Iterable[Trajectory]) -> dict[str, Tally]:
    """Rollouts, solved ones and tokens by family, families in alphabetical order."""
    families: dict[str, Tally] = {}
    for t in trajectories:
        outcome = t.reward_parts.get(OUTCOME)
        counts = {"episodes": 1, "scored": int(outcome is not None), "solved": int((outcome or 0.0) >= FULL_SCORE)}
        add_tally(families, {t.family: counts | asdict(t.usage)})
    return dict(sorted(families.items()))


def add_tally(families: dict[str, Tally], more: Mapping[str, Tally]) -> None:
    """Add ``more`` to ``families`` in place."""
    for family, counts in more.items():
        own = families.setdefault(family, dict.fromkeys(COLUMNS, 0))
        for column in COLUMNS:
            own[column] += counts[column]


def summed(families: Mapping[str, Tally]) -> Tally:
    """All families together."""
    return {column: sum(counts[column] for counts in families.values()) for column in COLUMNS}


def usage_of(counts: Mapping[str, int]) -> Usage:
    """The tokens of a tally."""
    return Usage(**{f.name: counts[f.name] for f in fields(Usage)})


def usage_metrics(families: Mapping[str, Tally]) -> dict[str, float]:
    """``usage/…`` of one step or evaluation: sums over its rollouts, in all and per family."""
    out = {f"usage/{kind}": float(summed(families)[kind]) for kind in TOKENS}
    for family, counts in families.items():
        out |= {f"usage/family/{family}/{kind}": float(counts[kind]) for kind in TOKENS}
    return out


class UsageBook:
    """Tokens of a run by stage.

    Args:
        stages: what an earlier part of the same run had counted (``summary["usage"]["stages"]``).
    """

    def __init__(self, stages: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        self.stages: dict[str, tuple[Kind, dict[str, Tally]]] = {}
        for name, entry in (stages or {}).items():
            families = {f: {c: int(row[c]) for c in COLUMNS} for f, row in entry["families"].items()}
            self.stages[name] = (entry["kind"], families)

    def put(self, stage: str, kind: Kind, families: Mapping[str, Tally]) -> None:
        """What ``stage`` has used in all (``tally``); replaces what was known of it."""
        self.stages[stage] = (kind, {family: dict(counts) for family, counts in families.items()})

    def summary(self, cost: CostConfig) -> dict[str, Any]:
        """``summary.json: usage``, at the price of ``cost.model`` (None: tokens only)."""
        price = price_of(cost, cost.model) if cost.model is not None else None
        stages = {
            name: {
                "kind": kind,
                "families": {family: priced(counts, price) for family, counts in families.items()},
                "total": priced(summed(families), price),
            }
            for name, (kind, families) in self.stages.items()
        }
        run: dict[str, Tally] = {}
        for _, families in self.stages.values():
            add_tally(run, families)
        return {"stages": stages, "total": priced(summed(run), price), "price": asdict(price) if price else None}


def priced(counts: Tally, price: Price | None) -> dict[str, Any]:
    """A tally with what it cost, in all and per solved rollout; without a price only the tokens per solved one."""
    usage = usage_of(counts)
    cost = price.cost(usage) if price else None
    return counts | {
        "tokens_per_solved": per_solved(usage.prompt + usage.output, counts["solved"]),
        "cost": cost,
        "cost_per_solved": None if cost is None else per_solved(cost, counts["solved"]),
    }


USAGE_COLUMNS = ("stage, family", "solved", "prompt", "cached", "thinking", "tool", "answer", "tokens / solved", "cost",
                 "cost / solved")  # fmt: skip


def usage_rows(summary: Mapping[str, Any], *, families: bool = False) -> list[tuple[str, ...]]:
    """A row for each stage in ``USAGE_COLUMNS`` (with ``families`` also for each family of it) and the run's last; of
    a single stage its families and their sum. Empty when nothing was counted."""
    usage = summary.get("usage") or {}
    stages = usage.get("stages") or {}
    currency = (usage.get("price") or {}).get("currency", "USD")
    rows = []
    for name, entry in stages.items():
        title = name + " · " if len(stages) > 1 else ""
        if title:
            rows.append(_row(name, entry["total"], currency))
        if not title or (families and len(entry["families"]) > 1):
            rows += [_row(title + family, row, currency) for family, row in entry["families"].items()]
    return [*rows, _row("all", usage["total"], currency)] if rows else []


def price_note(summary: Mapping[str, Any]) -> str:
    """One line on what the money in the tables means."""
    price = (summary.get("usage") or {}).get("price")
    if not price:
        return "No price (cost.model=null): tokens only."
    per_million = ", ".join(
        f"{what} {money(price[key], price['currency'])}"
        for what, key in (("input", "input"), ("cached", "cached_input"), ("output", "output"))
    )
    return (
        f"Money: what these tokens cost at the price of {price['name']}, per million {per_million}. Solved: rollouts "
        "with the full outcome; the cost of all rollouts is shared among them."
    )


def _row(name: str, row: Mapping[str, Any], currency: str) -> tuple[str, ...]:
    cached = row["cached"] / row["prompt"] if row["prompt"] else 0.0
    per = row["tokens_per_solved"]
    return (
        name, f"{row['solved']:,} of {row['episodes']:,}", f"{row['prompt']:,}", f"{cached:.0%}",
        f"{row['thinking']:,}", f"{row['tool']:,}", f"{row['answer']:,}", "–" if per is None else f"{per:,.0f}",
        money(row["cost"], currency), money(row["cost_per_solved"], currency),
    )  # fmt: skip
