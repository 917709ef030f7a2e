"""`rl-doctor attribute=true` on a run directory: table, JSON and report; errors that say what to do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from recorded_segments import LENGTH, PROMPT, group, recorded, recording_policy

from configs.schema import DoctorConfig
from rl.commands import doctor
from rl.rollout.config import RolloutConfig
from rl.run.batches import save_batch
from rl.run.preflight import ConfigurationError
from rl.tracking.rundir import RunDir


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """A run with the batch of step 4, whose second trajectory met a near-tie of the indexer."""
    run = RunDir(tmp_path / "demo")
    run.write_config("seed: 0\n")
    groups = group(recorded(0), recorded(1, other_indexer=True))
    groups[0].trajectories[1].id = "[red]g0/1"  # names are text, not markup of the console or of the page
    save_batch(run, 4, 3, groups, RolloutConfig(), lambda directory: recording_policy().save(directory), 2)
    return run


def config(run: RunDir, **given: object) -> DoctorConfig:
    return DoctorConfig(run=run.name, runs_dir=str(run.path.parent), attribute=True, threads=1, device="cpu", **given)


def test_table_json_and_report(run: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    found = doctor.run(config(run, worst=2))["attribution"]
    assert json.loads((run.diagnoses / "step_000004.json").read_text()) == found
    assert (found["step"], found["version"], found["device"]) == (4, 3, "cpu")
    parts = {row["part"]: row for row in found["rows"]}
    assert parts["numerics"]["tokens"] == 2 * (LENGTH - PROMPT)
    assert parts["numerics"]["max"] < 1e-4 < 1e-3 < parts["indexer"]["max"]
    assert len(found["worst"]["indexer live"]) == 2
    printed, page = capsys.readouterr().out, run.report.read_text()
    for shown in (printed, page):
        assert "train/inference mismatch of step 4" in shown
        assert "worst tokens with indexer live" in shown
        assert "not in use: every token was sampled by these weights" in " ".join(shown.split())
        assert f"{parts['indexer']['max']:.1e}" in shown
        assert "[red]g0/1" in shown
    assert str(run.report) in printed.replace("\n", "")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"run": None}, "run is missing: give run=<name of a run>"),
        ({"run": "other"}, "no run at .*other"),
        ({"step": 3}, r"run 'demo' has no batch of step 3: stored are the steps \[4\]; tracking.save_batch_every=20"),
        ({"max_tokens_per_microbatch": 8}, "step 4 of run 'demo': .*does not fit max_tokens_per_microbatch=8"),
    ],
)
def test_errors_say_what_to_do(run: RunDir, given: dict, said: str) -> None:
    cfg = config(run)
    for name, value in given.items():
        setattr(cfg, name, value)
    with pytest.raises(ConfigurationError, match=said):
        doctor.run(cfg)
    assert not run.report.exists()


def test_a_run_without_batches_names_the_field(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "empty")
    run.write_config("seed: 0\n")
    with pytest.raises(
        ConfigurationError, match=r"run 'empty' has no batch: none is stored; tracking.save_batch_every=20 stores"
    ):
        doctor.run(config(run))
    assert not run.report.exists()
