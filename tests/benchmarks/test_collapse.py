"""The regimes of the collapse bench can be run, differ by their part alone, and their records become its tables."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest
from made_runs import rollout
from train_runs import train_config

from benchmarks.collapse import (
    ARMS,
    BEGIN,
    END,
    REGIMES,
    Played,
    alarm_table,
    fell,
    gains,
    overrides,
    plot,
    read,
    run_name,
    table,
    text,
)
from benchmarks.fault_list import FAULTS
from benchmarks.runs import put_between
from rl.tracking.rundir import RunDir

ROOT = Path(__file__).parents[2]
REGIME = next(iter(REGIMES))


@pytest.mark.parametrize("regime", REGIMES)
def test_a_regime_is_a_run_and_its_arms_differ_by_the_part(regime: str) -> None:
    one = REGIMES[regime]
    if one.fault is not None:
        name, _, severity = one.fault.partition("=")
        assert name in FAULTS
        assert float(severity) > 0
    arms = [asdict(train_config(*overrides(regime, arm, 1, []))) for arm in ARMS]
    changed = {part.partition("=")[0].partition(".")[0] for part in (*one.part, *one.without)}
    assert arms[0] != arms[1]
    assert {key for key in arms[0] if arms[0][key] != arms[1][key]} <= changed


def test_where_an_outcome_fell_for_good() -> None:
    assert fell([0.4] * 8) is None
    assert fell([0.2, 0.4, 0.6, 0.8]) is None
    # means of three: .4 .5 .6 .5 .3 .1; .5 is above 3/4 of .6 and .3 is not
    assert fell([0.2, 0.4, 0.6, 0.5, 0.7, 0.3, -0.1, 0.1]) == 7
    assert fell([0.6, 0.6, 0.6, 0.0, 0.0, 0.0, 0.6, 0.6, 0.6]) is None  # it came back
    assert fell([]) is None


def recorded(out: Path, arm: str, seed: int, scores: list[float], after: float, ratio_from: int = 99) -> None:
    run = RunDir(out / run_name(REGIME, arm, seed))
    run.write_config("steps: 8\n")
    for step, score in enumerate(scores, 1):
        off = 1.3 if step >= ratio_from else 1.0
        run.log_metrics("grpo", step, {"score/outcome": score, "policy/ratio_mean": off})
    run.log_trajectories("eval_before", [rollout(task=f"t/{i}", reward=float(i < 2)) for i in range(4)])
    run.log_trajectories("eval_after", [rollout(task=f"t/{i}", reward=float(i < 4 * after)) for i in range(4)])
    run.write_summary({"eval_before": {"overall": 0.5}, "eval_after": {"overall": after, "stderr": 0.1}})


def test_records_become_tables(tmp_path: Path) -> None:
    up, down = [0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.8, 0.8, 0.8, 0.8], [0.4, 0.5, 0.5, 0.5, 0.4, 0.2, 0.1, 0.0, 0.0, 0.0]
    for seed in (1, 2):
        recorded(tmp_path, "without", seed, down, 0.0, ratio_from=3)
        recorded(tmp_path, "with", seed, up, 1.0)
    runs = {(REGIME, arm): [found for seed in (1, 2) if (found := read(REGIME, arm, seed, tmp_path))] for arm in ARMS}
    without, kept = table(runs)
    assert without[2:5] == ("2 of 2", "0.47 → 0.46 → 0.06", "0.500 → 0.000")
    assert without[5:] == ("0.00, 0.00",)
    assert kept[2:5] == ("0 of 2", "0.40 → 0.80 → 0.80", "0.500 → 1.000")
    assert gains(runs) == [(REGIME, "+1.000 [+1.000, +1.000]", "4", "1 2")]
    alarms = alarm_table(runs)
    assert alarms[0][:6] == (REGIME, "without", "1", "ratio_mean", "3", "6")
    assert alarms[0][6].startswith("collapse ")
    assert alarms[2] == (REGIME, "with", "1", "none", "–", "–", "none")
    section = text(runs, ["one-with-3"])
    assert "Not run: one-with-3." in section
    plot(runs, tmp_path / "plot.svg")
    assert (tmp_path / "plot.svg").read_text().count("<polyline") == 6
    assert read(REGIME, "with", 3, tmp_path) is None
    assert isinstance(runs[REGIME, "with"][0], Played)


def test_the_page_has_a_place_for_them(tmp_path: Path) -> None:
    page = tmp_path / "results.md"
    page.write_text((ROOT / "docs" / "results.md").read_text())
    put_between(page, BEGIN, END, "| new |\n")
    after = page.read_text()
    assert f"{BEGIN}\n\n| new |\n\n{END}" in after
    page.write_text("nothing")
    with pytest.raises(ValueError, match="has no lines"):
        put_between(page, BEGIN, END, "x")


def test_every_regime_has_runs_in_the_page() -> None:
    page = (ROOT / "docs" / "results.md").read_text().partition(BEGIN)[2].partition(END)[0]
    for regime in REGIMES:
        assert f"| {regime} | without | " in page, regime
