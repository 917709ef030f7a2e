"""`rl-doctor` on a run's records and on another toolkit's rollouts: alarms, page, errors that say what to do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from doctor_records import record

from configs.schema import DoctorConfig
from rl.commands import doctor
from rl.doctor.catalogue import DETECTORS
from rl.run.preflight import ConfigurationError
from rl.tracking.findings import detectors_markdown, examine_file, records_of, settings_of
from rl.tracking.rundir import RunDir, step_name

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """Six steps; from the fourth on the learner's advantages are not those of the groups."""
    run = RunDir(tmp_path / "demo")
    run.write_config("prompts_per_step: 4\ngroup_size: 4\nlearner: {lr: 1.0e-3, gone: 1}\nof_another_version: {a: 1}\n")
    for step in range(1, 7):
        one = record(step)
        spoilt = {"advantage/std": 0.3} if step > 3 else {}
        run.log_trajectories(step_name(step), [t for g in one.groups for t in g.trajectories])
        run.log_metrics("grpo", step, {**one.metrics, **spoilt})
    return run


def test_alarms_and_the_page(run: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    found = doctor.run(DoctorConfig(run="demo", runs_dir=str(run.path.parent)))
    (line,) = found["alarms"]["grpo"]
    assert line.startswith("grpo, step 4 (3 of 6): warning: advantages: ")
    printed, page = capsys.readouterr().out, run.doctor.read_text()
    assert line in printed
    assert "grpo: 1 alarms in 6 steps by 24 detectors; had nothing to look at: verdicts" in printed
    assert "check how rewards are grouped before the advantage is taken" in page
    for detector in DETECTORS:
        assert detector.name in page


def test_settings_of_any_version(run: RunDir) -> None:
    settings = settings_of(run)
    assert settings is not None
    assert (settings.prompts, settings.lr, settings.norm, settings.taught) == (4, 1e-3, "mean", False)
    run.write_config("objective: {distill: {teachers: {default: somewhere}}}\n")
    taught = settings_of(run)
    assert taught is not None
    assert taught.taught
    run.write_config("pipeline: {enabled: true, merge: teachers}\n")  # its specialists will be the teachers
    stages = [settings_of(run, stage) for stage in ("grpo", "grpo/search")]
    assert [settings is not None and settings.taught for settings in stages] == [True, False]


def test_what_a_resume_recalls(run: RunDir) -> None:
    recalled = list(records_of(run, "grpo", None, range(3, 6)))
    assert [(r.step, len(r.groups), r.groups[0].id) for r in recalled] == [(3, 4, 8), (4, 4, 12), (5, 4, 16)]


def test_rollouts_of_another_toolkit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"task_id": "a", "reward": reward, "segments": [{"tokens": [1, 2, 3], "spans": [{"start": 1, "end": 3}]}]}
        for reward in (1.0, 0.0)
    ]
    file = tmp_path / "theirs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = doctor.run(DoctorConfig(rollouts=str(file), out=str(tmp_path / "page.html")))
    (line,) = found["alarms"]["theirs.jsonl"]
    assert "verdicts: the share of equal rollouts with unequal outcomes is 1, limit 0.02 (1 of 1, first: a)" in line
    assert line in capsys.readouterr().out
    assert "verdicts" in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "run is missing: give run=<name of a run>, or rollouts="),
        ({"run": "demo", "rollouts": "x.jsonl"}, "run=demo with rollouts=x.jsonl: give one of them"),
        ({"rollouts": "x.jsonl"}, "rollouts=x.jsonl: no such file"),
        ({"rollouts": "x.jsonl", "attribute": True}, "attribute=true needs a run of ours"),
        ({"run": "demo"}, "no run at"),
    ],
)
def test_errors_say_what_to_do(given: dict, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=said):
        doctor.run(DoctorConfig(runs_dir=str(tmp_path), **given))


def test_a_row_that_is_no_rollout_is_named(tmp_path: Path) -> None:
    file = tmp_path / "theirs.jsonl"
    file.write_text('{"reward": 1}\n')
    with pytest.raises(ConfigurationError, match="row 1 is no rollout: ValueError: 'task_id' is missing"):
        doctor.run(DoctorConfig(rollouts=str(file)))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "has no rollout"),
        (b"\xff{}", "is not UTF-8"),
        (b"[" * 100_000, "line 1 is not JSON"),
        (b"{}\n{", "row 1 is no rollout"),
    ],
)
def test_a_file_of_no_rollouts(content: bytes, said: str, tmp_path: Path) -> None:
    file = tmp_path / "theirs.jsonl"
    file.write_bytes(content)
    with pytest.raises(ConfigurationError, match=said):
        doctor.run(DoctorConfig(rollouts=str(file), out=str(tmp_path / "page.html")))


def test_the_last_row_needs_no_line_feed_and_the_page_a_folder(tmp_path: Path) -> None:
    file = tmp_path / "theirs.jsonl"
    row = '{"task_id": "\\ud800", "reward": 1, "reward_parts": {"outcome": 0}}'
    file.write_text(f"\ufeff{row}\n\n{row}", encoding="utf-8")
    found = examine_file(file)
    assert found[0].watch.courses["masked"].looked == 1
    assert len(doctor.run(DoctorConfig(rollouts=str(file), out=str(tmp_path / "p.html")))["alarms"]["theirs.jsonl"])
    with pytest.raises(ConfigurationError, match="must be a file in a folder that is there"):
        doctor.run(DoctorConfig(rollouts=str(file), out=str(tmp_path / "no" / "page.html")))


def test_the_page_of_detectors_is_the_table() -> None:
    page = (ROOT / "docs" / "doctor.md").read_text()
    assert detectors_markdown() in page, "run: python -m rl.tracking.findings docs/doctor.md"
