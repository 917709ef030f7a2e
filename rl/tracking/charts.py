"""The charts of a run, made from its metrics rows and summary: shared by report and README picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rl.tracking.svg import INK, Series, bar_chart, line_chart, smooth

Rows = Sequence[Mapping[str, Any]]
Points = list[tuple[float, float]]


def points(rows: Rows, key: str) -> Points:
    """(step, value) of one metric where it was logged as a number."""
    return [(row["step"], row[key]) for row in rows if row.get(key) is not None]


def families(rows: Rows, prefix: str) -> list[str]:
    """Families that have metrics under ``prefix``, sorted, so that each keeps its colour."""
    return sorted({key.removeprefix(prefix) for row in rows for key in row if key.startswith(prefix)})


def reward_chart(rows: Rows, offset: tuple[int, int] = (0, 0)) -> str:
    return _by_family("Reward in training, by family", rows, "reward/family/", "reward/mean", offset, y_range=(0, 1))


def length_chart(rows: Rows, offset: tuple[int, int] = (0, 0)) -> str:
    return _by_family("Sampled tokens per episode", rows, "length/family/", "length/sampled_mean", offset, y_range=None)


def mismatch_chart(rows: Rows, offset: tuple[int, int] = (0, 0)) -> str:
    """Sampler against learner, nats per token, on a log axis."""
    keys = ("mismatch/max", "mismatch/p99", "mismatch/mean", "mismatch/probe_max")
    lines = [Series(k.removeprefix("mismatch/"), points(rows, k), i) for i, k in enumerate(keys)]
    return line_chart("Log-prob mismatch, nats", lines, log_y=True, offset=offset)


def speed_chart(rows: Rows, offset: tuple[int, int] = (0, 0)) -> str:
    keys = ("rollout/tokens_per_s", "learner/tokens_per_s")
    lines = [Series(k.split("/")[0], points(rows, k), i) for i, k in enumerate(keys)]
    return line_chart("Tokens per second", lines, offset=offset)


def policy_chart(rows: Rows, offset: tuple[int, int] = (0, 0)) -> str:
    keys = ("policy/entropy", "learner/grad_norm")
    lines = [Series(k.split("/")[1], points(rows, k), i) for i, k in enumerate(keys)]
    return line_chart("Entropy (nats per token) and gradient norm", lines, offset=offset)


def teachers_chart(rows: Rows, offset: tuple[int, int] = (0, 0)) -> str | None:
    """Reverse KL to the teacher of each family; None for a run without teachers."""
    taught = families(rows, "distill/kl/")
    window = max(1, len(rows) // 12)
    lines = [Series(f, smooth(points(rows, f"distill/kl/{f}"), window), i) for i, f in enumerate(taught)]
    return line_chart("Reverse KL to the teacher, nats per token", lines, offset=offset) if lines else None


def specialists_chart(rows: Mapping[str, Rows], offset: tuple[int, int] = (0, 0)) -> str:
    """Training reward of each specialist; ``rows`` by family."""
    lines = []
    for i, (family, own) in enumerate(sorted(rows.items())):
        lines.append(Series(family, smooth(points(own, "reward/mean"), max(1, len(own) // 12)), i))
    return line_chart("Reward of the specialists in training", lines, offset=offset)


def before_after_chart(summary: Mapping[str, Any], offset: tuple[int, int] = (0, 0)) -> str | None:
    """Bars of the two evaluations, or None when the run has neither yet."""
    before, after = summary.get("eval_before"), summary.get("eval_after")
    if not before and not after:
        return None
    k = (after or before or {}).get("k")
    what = "Outcome" if "evaluated" in summary else "Held-out outcome"
    return bar_chart(f"{what}, avg@{k}", _bars(before), _bars(after), offset=offset)


def _by_family(
    title: str,
    rows: Rows,
    prefix: str,
    total: str,
    offset: tuple[int, int],
    y_range: tuple[float, float] | None,
) -> str:
    lines: list[Series] = []
    raw: list[Series] = []
    window = max(1, len(rows) // 12)  # noisy by batch: the trend in front, the numbers faintly behind
    for i, family in enumerate(families(rows, prefix)):
        own = points(rows, prefix + family)
        lines.append(Series(family, smooth(own, window), i))
        raw.append(Series(family, own, i))
    mean = points(rows, total)
    lines.append(Series("all", smooth(mean, window), INK, bold=True))
    values = [y for s in (*lines, *raw) for _, y in s.points]
    if y_range is not None and values:
        y_range = (min(y_range[0], *values), max(y_range[1], *values))
    return line_chart(title, lines, raw=raw if window > 1 else (), y_range=y_range, offset=offset)


def _bars(evaluation: Mapping[str, Any] | None) -> dict[str, tuple[float, float]]:
    if not evaluation:
        return {}
    bars = {name: (f["avg@k"], f["stderr"]) for name, f in sorted(evaluation["families"].items())}
    return bars | {"overall": (evaluation["overall"], evaluation["stderr"])}
