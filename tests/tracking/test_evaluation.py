"""Estimates of an evaluation, its sweep, and several policies: numbers by hand, tables, report, charts."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from configs.schema import EvalConfig, SweepConfig
from envs.types import StopReason
from rl.tracking.evaluation import estimate_table, eval_summary, evaluation_metrics, paired
from rl.tracking.metrics import undocumented
from rl.tracking.policies import across_sweep_table, policies_summary, policies_table, print_policies
from rl.tracking.report import report_html
from rl.tracking.rundir import RunDir
from rl.tracking.summary import evaluation_rows, summary_table
from rl.tracking.sweep import sweep_metrics, sweep_point, sweep_svg, sweep_table

CONFIG = EvalConfig(n_tasks=2, k=4)


@pytest.fixture
def rollouts(make) -> list[Any]:
    """Task a: answers Oslo Oslo Bergen Paris, Oslo right. Task b: all wrong, one of them with no score at all."""
    a = [make(f"a{i}", task="s/a", outcome=o, text=t, sampled=n) for i, (o, t, n) in enumerate(
        [(1.0, "Oslo", 3), (1.0, "oslo.", 5), (0.0, "Bergen", 7), (0.0, "Paris", 9)]
    )]  # fmt: skip
    b = [make(f"b{i}", task="s/b", outcome=0.0, text=str(i)) for i in range(3)]
    return [*a, *b, make("b3", task="s/b", outcome=None, failure="env_error")]


def test_estimates_by_hand(rollouts) -> None:
    result = eval_summary(rollouts, CONFIG)
    found = {name: entry["mean"] for name, entry in result["families"]["search"]["estimates"].items()}
    # task a: avg ½, pass@2 = 1 − C(2,2)/C(4,2) = 5/6, pass@4 = 1, maj@2 = ½, maj@4 = 1; task b: 0, and too few for 4
    assert found == pytest.approx(
        {"avg@4": 0.25, "pass@1": 0.25, "pass@2": 5 / 12, "pass@4": 1.0, "maj@2": 0.25, "maj@4": 1.0}
    )
    estimates = result["estimates"]
    assert (estimates["pass@2"]["n_tasks"], estimates["pass@4"]["n_tasks"]) == (2, 1)
    assert estimates["avg@4"]["bootstrap"] == [0.0, 0.5]
    assert result["families"]["search"]["tasks"] == {"s/a": 0.5, "s/b": 0.0}
    # what was there before is unchanged, and stands alone without the settings
    plain = eval_summary(rollouts)
    assert plain["overall"] == result["overall"] == 0.25
    assert "estimates" not in plain
    metrics = evaluation_metrics(result)
    assert metrics["eval/family/search/pass@2"] == pytest.approx(5 / 12)
    assert undocumented(metrics) == []


def test_best_of_by_a_named_score(make) -> None:
    samples = [
        make("1", outcome=1.0, text="x"), make("2", outcome=0.0), make("3", outcome=0.0), make("4", outcome=1.0),
    ]  # fmt: skip
    for sample, score in zip(samples, (0.9, 0.1, 0.4, 0.2), strict=True):
        sample.reward_parts["proof/self_score"] = score
    result = eval_summary(samples, EvalConfig(k=4, ks=[1, 4], best_of="proof/self_score"))
    assert result["estimates"]["best@4"]["mean"] == 1.0
    assert "best@1" not in result["estimates"]
    with pytest.raises(ValueError, match="'self': no sample has it; there are outcome, proof/self_score, score/out"):
        eval_summary(samples, EvalConfig(best_of="self"))


def test_settings_are_checked() -> None:
    assert EvalConfig(k=1).sizes() == [1]
    assert EvalConfig(k=4).sizes() == [1, 2, 4]
    assert EvalConfig(k=6).sizes() == [1, 2, 4, 6]
    assert EvalConfig(k=6, ks=[5, 1, 5]).sizes() == [1, 5]
    for wrong in ({"ks": [8]}, {"ks": []}, {"k": 0}, {"confidence": 95.0}, {"n_tasks": 0}):
        with pytest.raises(ValueError, match=f"eval.{next(iter(wrong))}="):
            EvalConfig(**wrong)
    with pytest.raises(ValueError, match="duplicate budget"):
        SweepConfig(thinking=[8, None, None])


def test_the_change_is_paired(make) -> None:
    """Tasks differ a lot, every one of them gained 0.5: the interval knows it, two independent ones would not."""

    def evaluation(gain: float) -> dict[str, Any]:
        return eval_summary([make(str(i), task=f"t{i}", outcome=0.5 * (i % 2) + gain) for i in range(6)], CONFIG)

    before, after = evaluation(0.0), evaluation(0.5)
    found = paired(before, after, 0.95)
    assert found is not None
    assert (found["overall"]["mean"], found["overall"]["stderr"]) == (0.5, 0.0)
    rows = evaluation_rows({"eval_before": before, "eval_after": after})
    assert rows[-1][3] == "+0.500 [+0.50, +0.50]"
    other = eval_summary([make(task="another")], CONFIG)
    assert paired(before, other, 0.95) is None
    assert evaluation_rows({"eval_before": before, "eval_after": other})[0][3] == "+0.750"


def points(rollouts: list[Any]) -> list[dict[str, Any]]:
    evaluation = eval_summary(rollouts, CONFIG)
    cut = [*rollouts]
    cut[0].counts = {"thinking_cut": 2}
    cut[1].stop_reason = StopReason.MAX_TOKENS
    return [sweep_point(cut, evaluation, budget, 160) for budget in (16, None)]


def test_a_sweep_point_by_hand(rollouts) -> None:
    first, last = points(rollouts)
    # scored: 3 5 7 9 3 3 3 tokens: mean 33/7, 90th percentile 7.8
    assert first["tokens"] == pytest.approx({"mean": 33 / 7, "p90": 7.8})
    assert (first["limit"], last["limit"]) == (16, 160)
    assert first["thinking_cut"] == first["truncated"] == 1 / 8
    assert first["stops"] == {"answered": 7 / 8, "max_tokens": 1 / 8}
    assert first["failures"] == {"env_error": 1}
    assert undocumented(sweep_metrics(first)) == []
    columns, rows = sweep_table([first, last])
    assert columns == ("max thinking", "avg@k", "tokens", "p90", "thinking", "p90", "cut", "truncated", "ended")
    assert [row[0] for row in rows] == ["16", "no limit"]
    assert rows[0][-1] == "answered 88%, max_tokens 12%"
    svg = sweep_svg([first, last])
    assert svg.startswith("<svg")
    assert svg.count("</svg>") == 3
    assert "Accuracy against max thinking tokens" in svg


def test_tables_and_report(rollouts, tmp_path: Path) -> None:
    evaluation = eval_summary(rollouts, CONFIG)
    summary = {
        "eval_before": evaluation, "eval_after": evaluation, "policy": "runs/a/policy", "baseline": "runs/<b>",
        "sweep": {"thinking": points(rollouts)}, "wall_s": {"evaluation": 2.0},
    }  # fmt: skip
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(summary_table(summary))
    text = " ".join(console.export_text().split())
    for piece in ("eval after: 95% intervals", "maj@4", "thinking sweep", "no limit", "0.250 ["):
        assert piece in text, piece
    run = RunDir(tmp_path / "eval")
    run.write_summary(summary)
    html = report_html(run)
    for piece in ("Thinking sweep", "evaluation of runs/a/policy", "maj@4", "runs/&lt;b&gt;", "answered 88%"):
        assert piece in html, piece


def test_several_policies_by_hand(make, tmp_path: Path) -> None:
    def one(outcomes: dict[str, float]) -> dict[str, Any]:
        samples = [make(task, task=task, outcome=o) for task, o in outcomes.items()]
        evaluation = eval_summary(samples, EvalConfig(k=1))
        return {"eval_after": evaluation, "sweep": {"thinking": [sweep_point(samples, evaluation, 8, 160)]}}

    summary = policies_summary({"s0": one({"a": 0.0, "b": 1.0}), "s1": one({"a": 1.0, "b": 1.0})}, 0.95)
    # overall ½ and 1: mean 0.75, s = 0.353553, stderr 0.25
    assert summary["across"]["overall"] == pytest.approx({"mean": 0.75, "stderr": 0.25})
    columns, rows = policies_table(summary)
    assert columns == ("policy", "avg@k", "less the first")
    assert [row[0] for row in rows] == ["s0", "s1", "mean of 2"]
    assert rows[1][-1].startswith("+0.500 [")
    assert rows[2][1] == "0.750 ± 0.250"
    assert across_sweep_table(summary)[1] == [("8", "0.750 ± 0.250", "3 ± 0", "3 ± 0", "0.000 ± 0.000")]
    console = Console(width=160, record=True, file=io.StringIO())
    print_policies(console, summary, "report.html")
    assert "mean of 2" in console.export_text()
    run = RunDir(tmp_path / "both")
    run.write_summary(summary)
    assert "evaluation of 2 policies" in report_html(run)
    assert estimate_table({}) == ((), [])
