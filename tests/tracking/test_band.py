"""The band of a reward curve: its numbers by hand, which runs belong to it, and what the report says."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from train_runs import train_config

from rl.tracking import band
from rl.tracking.report import report_html
from rl.tracking.rundir import RunDir


def a_run(
    folder: Path, name: str, rewards: list[float], seed: int = 0, settings: str = "", after: float = 0.8
) -> RunDir:
    run = RunDir(folder / name)
    run.write_config(f"name: {name}\nseed: {seed}\nsteps: 4\nlearner: {{lr: 0.1, threads: {seed + 1}}}\n{settings}")
    for step, reward in enumerate(rewards, start=1):
        run.log_metrics("grpo", step, {band.METRIC: reward})
    run.write_summary({"eval_after": {"overall": after, "families": {}, "stderr": 0.0, "k": 1, "n_tasks": 1}})
    return run


def three(folder: Path) -> list[RunDir]:
    curves = [[0.0, 0.2, 0.4, 0.6], [0.1, 0.3, 0.5, 0.7], [0.2, 0.4, 0.6, 0.8]]
    return [a_run(folder, f"r{seed}", curve, seed, after=0.7 + seed / 20) for seed, curve in enumerate(curves)]


def test_the_band_by_hand(tmp_path: Path) -> None:
    made = band.record(three(tmp_path))
    half = 3 * 0.1 * math.sqrt(4 / 3)  # the variance over runs is 0.01 at every step
    assert made.low == pytest.approx([0.1 - half, 0.3 - half, 0.5 - half, 0.7 - half], abs=1e-4)
    assert made.high == pytest.approx([0.1 + half, 0.3 + half, 0.5 + half, 0.7 + half], abs=1e-4)
    assert (made.steps, made.after) == ([1, 2, 3, 4], [0.7, 0.75, 0.8])


def test_the_report_says_whether_the_run_is_normal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = three(tmp_path)
    assert "No recorded band for these settings" in report_html(runs[0])
    assert band.main([str(run.path) for run in runs]) == 0
    (file,) = tmp_path.glob("band-*.json")
    assert capsys.readouterr().out.strip() == str(file.resolve())
    good = report_html(a_run(tmp_path, "good", [0.15, 0.3, 0.45, 0.75], seed=7))
    assert "Normal: the reward is inside the band of 3 recorded runs (r0, r1, r2) at 4 of 4 steps." in good
    assert "0.700 to 0.800" in good
    assert "Reward against the recorded band" in good
    bad = report_html(a_run(tmp_path, "bad", [0.1, 0.1, 0.1, 0.1], seed=8))
    assert "Not normal" in bad
    assert "at 2 of 4 steps, below it at 2" in bad  # the band's low edge is at -0.25, -0.05, 0.15, 0.35
    other = report_html(a_run(tmp_path, "other", [0.1, 0.3, 0.5, 0.7], settings="objective: {clip: 0.1}\n"))
    assert "No recorded band for these settings" in other
    started = report_html(a_run(tmp_path, "started", [0.1], seed=9))
    assert "at 1 of 1 steps" in started


def test_runs_that_make_no_band(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = three(tmp_path)
    with pytest.raises(ValueError, match="2 runs: a band needs at least 3"):
        band.record(runs[:2])
    with pytest.raises(ValueError, match="every run must have its own"):
        band.record([*runs, a_run(tmp_path, "again", [0.0, 0.2, 0.4, 0.6], seed=2)])
    with pytest.raises(ValueError, match="the runs have other steps: 4, 4, 4, 3"):
        band.record([*runs, a_run(tmp_path, "short", [0.0, 0.2, 0.4], seed=5)])
    with pytest.raises(ValueError, match="'other' and 'r0' differ in more than their seed"):
        band.record([*runs, a_run(tmp_path, "other", [0.0, 0.2, 0.4, 0.6], 6, "env: {_target_: x}\n")])
    stopped = a_run(tmp_path, "stopped", [0.0, 0.2, 0.4, 0.6], seed=7)
    stopped.write_summary({})
    with pytest.raises(ValueError, match="'stopped' has not finished"):
        band.record([*runs, stopped])
    assert band.main([]) == 2
    assert band.main([str(tmp_path / "nothing")]) == 2
    assert "no run at" in capsys.readouterr().err


@given(st.integers(0, 99), st.integers(1, 64), st.sampled_from(["a", "b"]), st.sampled_from([0.1, 0.2]))
def test_the_key_is_of_what_shapes_the_curve(seed: int, threads: int, name: str, lr: float) -> None:
    base = {"seed": 0, "name": None, "learner": {"lr": 0.1, "threads": 1}, "steps": 80}
    same = base | {"seed": seed, "name": name, "learner": {"lr": 0.1, "threads": threads}, "tracking": {"x": name}}
    assert band.settings_key(same) == band.settings_key(base)
    other = base | {"learner": {"lr": lr, "threads": 1}}
    assert (band.settings_key(other) == band.settings_key(base)) == (json.dumps(lr) == "0.1")


def test_runs_of_the_main_job_that_differ_in_their_seed_share_a_key(tmp_path: Path) -> None:
    def key(*overrides: str) -> str:
        cfg = train_config(*overrides)
        return band.settings_key(yaml.safe_load(OmegaConf.to_yaml(OmegaConf.structured(cfg))))

    machine = ("learner.threads=2", "rollout.workers=2", "ray.num_cpus=4", "tracking.wandb=disabled", "runs_dir=x")
    assert key("name=a", "seed=1") == key("name=b", "seed=2", *machine)
    assert key("seed=1") != key("seed=1", "rollout.max_turns=5")


def test_runs_and_bands_of_an_earlier_version_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A configuration without a setting is one with its default, in runs and in bands; another value is another."""
    runs = three(tmp_path)  # they lack nearly every setting of the schema
    whole = "\n".join(("learner: {lr: 0.1, threads: 9}", "steps: 4", "prompts_per_step: 8", "rollout: {top_p: 1.0}"))
    newer = a_run(tmp_path, "newer", [0.15, 0.3, 0.45, 0.75], seed=7)
    newer.write_config(f"name: newer\nseed: 7\n{whole}\n")
    assert band.settings_key(yaml.safe_load(newer.config.read_text())) == band.record(runs).key
    assert band.record([*runs[:2], newer]).runs == ["r0", "r1", "newer"]
    other = a_run(tmp_path, "other", [0.1], seed=8, settings="rollout: {top_p: 0.9}\n")
    assert band.main([str(run.path) for run in runs]) == 0
    assert band.find(newer) is not None
    assert band.find(other) is None
    # the schema gets a setting: its default is what all of them had
    newer_schema = band._defaults() | {"brand_new": 3}
    monkeypatch.setattr(band, "_defaults", lambda: newer_schema)
    again = band.find(newer)
    assert again is not None
    assert again.key != band.settings_key(yaml.safe_load(newer.config.read_text()))  # it was recorded before
    changed = a_run(tmp_path, "changed", [0.1], seed=9, settings="brand_new: 4\n")
    assert band.find(changed) is None


def test_a_band_without_its_settings_is_nobodys(tmp_path: Path) -> None:
    """Bands that were recorded before they held their settings have to be recorded again."""
    (run, *_) = three(tmp_path)
    made = {k: v for k, v in vars(band.record(three(tmp_path))).items() if k != "settings"}
    (tmp_path / f"band-{made['key']}.json").write_text(json.dumps(made))
    assert band.find(run) is None


def test_a_configuration_that_cannot_be_read_has_no_band(tmp_path: Path) -> None:
    run = a_run(tmp_path, "r", [0.1])
    run.write_config("{ [")
    assert band.find(run) is None
    run.write_config("just text")
    assert band.find(run) is None


def test_the_main_job_has_a_shipped_band(tmp_path: Path) -> None:
    """What ``make train`` writes down finds it, whatever its seed; another learning rate does not."""
    cfg = train_config("seed=7")
    cfg.rollout.max_turns = 4  # as settled before a run starts
    run = RunDir(tmp_path / "demo-7")
    run.write_config(OmegaConf.to_yaml(OmegaConf.structured(cfg)))
    found = band.find(run)
    assert found is not None
    assert len(found.runs) >= 3
    assert len(found.steps) == cfg.steps == 80
    assert min(found.after) > 0.75
    cfg.learner.lr *= 2
    run.write_config(OmegaConf.to_yaml(OmegaConf.structured(cfg)))
    assert band.find(run) is None
