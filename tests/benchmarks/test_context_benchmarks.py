"""What the benchmarks of context policies and retention make of finished evaluations, by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import context, retention
from benchmarks.small_policy import Evaluation, between
from envs.search.voyage import VoyageTaskset


def row(task: int, outcome: float | None, stop: str = "answered", turns: int = 4, **counts: int) -> dict[str, Any]:
    usage = {"requests": turns, "prompt": 100, "cached": 75, "thinking": 10, "tool": 25, "answer": 5}
    return {
        "task_id": f"voyage/heldout/{context.SEED}/{task}", "stop_reason": stop, "turns": turns, "counts": counts,
        "sampled_tokens": 40, "total_tokens": 400, "usage": usage, "segments": [{}, {}],
        "reward_parts": {} if outcome is None else {"score/outcome": outcome, "score/answers": outcome},
    }  # fmt: skip


def evaluation(path: Path, *rows: dict[str, Any]) -> Evaluation:
    (path / "trajectories").mkdir(parents=True)
    (path / "config.yaml").write_text("seed: 0\n")  # what makes a folder a run
    (path / "trajectories" / "eval_after.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return Evaluation(path)


def test_context_figures(tmp_path: Path) -> None:
    none = evaluation(tmp_path / "none", row(0, 1.0), row(1, 0.0, "context", 6), row(2, None))
    managed = evaluation(
        tmp_path / "managed", row(0, 1.0), row(1, 1.0, turns=8, context_discard_75=2), row(1, 0.0, context_discard_75=1)
    )
    found = context.figures(managed, none)
    assert (found["accuracy"], found["runs"]) == (0.75, 3)  # the mean over tasks of 1 and 0.5
    assert found["minus_none"] == 0.25  # 0 and +0.5
    assert found["overflowed"] == pytest.approx(2 / 3)
    assert found["restarts"] == 1.0
    first = context.figures(none, none)
    assert (first["overflowed"], first["finished"]) == (0.5, 0.5)  # a run without a score is left out
    hops = [VoyageTaskset("heldout", context.SEED).task(i).metadata["hops"] for i in (0, 1)]
    assert found["by_hops"] == {hops[0]: 1.0, hops[1]: 0.5} if hops[0] != hops[1] else {hops[0]: 0.75}
    context.plot(tmp_path / "a.svg", {"none": first, "discard_75": found})
    assert (tmp_path / "a.svg").read_text().startswith("<svg")
    assert len(context.table({"none": first})[0]) == len(context.HEAD)


def test_parallel_runs_are_all_paid_for(tmp_path: Path) -> None:
    counts = {
        "context_parallel_turns": 20,
        "context_parallel_sampled_tokens": 200,
        "context_parallel_total_tokens": 900,
    }
    found = evaluation(tmp_path / "p", row(0, 1.0, **counts))
    figures = context.figures(found, found)
    assert (figures["steps"], figures["sampled_tokens"], figures["total_tokens"]) == (20.0, 200.0, 900.0)


def test_retention_figures(tmp_path: Path) -> None:
    one = evaluation(tmp_path / "one", row(0, 1.0), row(1, 0.0))
    found = retention.figures(one)
    assert (found["reward"], found["answers"], found["segments"]) == (0.5, 0.5, 2.0)
    assert (found["thinking"], found["prompt_tokens"], found["cached"]) == (0.25, 100.0, 0.75)
    table = {(rule, rule): found for rule in retention.RULES}
    assert len(retention.table(table)[0]) == len(retention.HEAD)
    retention.plot(tmp_path / "a.svg", table)
    assert (tmp_path / "a.svg").read_text().count("both right") == 1


def test_between() -> None:
    assert between(0.5, (0.25, 0.75)) == "0.500 [0.250, 0.750]"
    assert between(0.5, None, "+.2f") == "+0.50"
