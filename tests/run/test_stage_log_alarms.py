"""The loop's books apply the detectors: an alarm is a line, a metric and a row of the report; a resume recalls."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from doctor_records import SETTINGS, groups, metrics

from rl.learner.config import LearnerConfig
from rl.objective.config import ObjectiveConfig
from rl.rollout.config import RolloutConfig
from rl.run.stage_log import StageLog, Totals
from rl.tracking.alarms import alarm_rows
from rl.tracking.config import TrackingConfig
from rl.tracking.rundir import RunDir

POOL: Any = SimpleNamespace(counts=Counter[str](), stats=lambda: {"busy_s": 0.0, "start_s": 0.0})
CONFIG: Any = SimpleNamespace(
    prompts_per_step=SETTINGS.prompts, group_size=SETTINGS.group_size, max_staleness=0, failed_steps=3,
    learner=LearnerConfig(lr=SETTINGS.lr, warmup_steps=SETTINGS.warmup_steps), objective=ObjectiveConfig(),
    rollout=RolloutConfig(), tracking=TrackingConfig(save_batch_every=0),
)  # fmt: skip
LEARNED = {"learner/tokens": 8.0, "learner/tokens_distinct": 8.0, "learner/seconds": 0.1}


def play(log: StageLog, steps: range, **changed: float) -> None:
    for step in steps:
        log.begin()
        for lap in ("rollout", "learner", "sync"):
            log.lap(lap)
        of = groups(step)
        learned = metrics(step, of) | LEARNED | {name.replace("__", "/"): value for name, value in changed.items()}
        log.step(step, of, learned, {"mismatch/probe_max": 0.0})
    log.close()


def test_an_alarm_is_a_line_a_metric_and_a_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = RunDir(tmp_path / "run")
    play(StageLog(CONFIG, "grpo", run, POOL, Totals()), range(1, 4))
    assert capsys.readouterr().err == ""
    play(StageLog(CONFIG, "grpo", run, POOL, Totals(steps=3)), range(4, 7), policy__ratio_mean=1.3)
    said = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in said] == ["grpo, step 4", "grpo, step 5"]
    rows = run.read_metrics("grpo")
    assert [row.get("alarm/ratio_mean") for row in rows] == [None, None, None, 1.0, 1.0, 1.0]
    ((name, stage, first, steps, cause, _),) = alarm_rows(rows)
    assert (name, stage, first, steps) == ("ratio_mean", "grpo", "4", "3")
    assert cause.startswith("the sampler's log-probs")


def test_a_resume_recalls_the_steps_before_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = RunDir(tmp_path / "run")
    play(StageLog(CONFIG, "grpo", run, POOL, Totals()), range(1, 4))
    play(StageLog(CONFIG, "grpo", run, POOL, Totals(steps=3)), range(4, 5), learner__lr=SETTINGS.lr / 4)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        "grpo, step 4: warning: learning_rate: the share by which the learning rate has fallen is 0.75"
    )
