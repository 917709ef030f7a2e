"""The console scripts: quick help, wrong keys and values are errors that name them, progress lines."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from train_runs import train_config

from rl.commands.hydra import line_reporter

BIN = Path(sys.executable).parent


def call(command: str, *overrides: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(BIN / command), *overrides], cwd=cwd, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("command", ["rl-train", "rl-eval", "rl-coldstart", "rl-pretrain"])
def test_help_is_quick(command: str, tmp_path: Path) -> None:
    started = time.monotonic()
    done = call(command, "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert "env:" in done.stdout
    assert time.monotonic() - started < 10  # under 1 s when the machine is quiet
    assert list(tmp_path.iterdir()) == []


def test_composing_the_configuration_loads_nothing_heavy() -> None:
    code = """
import sys
import rl.commands.train, rl.commands.evaluate, rl.commands.cold_start, rl.commands.pretrain, rl.commands.adapt
import rl.commands.diagnose, rl.commands.compare, rl.commands.judge_agreement, rl.commands.hydra
from configs.schema import register
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
register()
with initialize_config_module("configs", version_base="1.3"):
    for name in ("train", "evaluate", "coldstart", "pretrain", "adapt", "diagnose", "compare"):
        OmegaConf.to_object(compose(name))
heavy = ("torch", "vllm", "ray", "transformers", "wandb", "datasets", "tantivy")
print([name for name in heavy if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("objective.clpi=0.1", "Key 'clpi' not in 'ObjectiveConfig'"),
        ("no_such_field=1", "no_such_field"),
        ("policy=nothing", "policy/nothing"),
        ("objective.clip=wide", "objective.clip"),
        ("rollout.top_p=3", "configuration error: rollout.top_p=3.0: must be in (0, 1]"),
        ("learner.train_indexer=maybe", "configuration error: learner.train_indexer='maybe': use 'frozen' or 'kl'"),
        ("env._target_=no_module.Nothing", "env._target_=no_module.Nothing"),
        ("env._target_=rewards.outcome.Outcome", "env._target_=rewards.outcome.Outcome"),
        (
            "base.source=no/such/directory",
            "configuration error: base.source=no/such/directory: no such directory;",
        ),
        ("policy=hf", "configuration error: policy.path is missing: policy.preset=hf needs policy.path=<directory>"),
        ("env=built", "configuration error: env.path is missing: give env.path=<value>"),
        ("resume=nothing", "configuration error: no run at 'runs/nothing'"),
    ],
)
def test_a_wrong_override_is_an_error_that_names_it(override: str, said: str, tmp_path: Path) -> None:
    done = call("rl-train", override, cwd=tmp_path)
    assert done.returncode == 1
    assert said in done.stderr + done.stdout
    assert "Traceback" not in done.stderr + done.stdout
    assert list(tmp_path.iterdir()) == []


def test_settings_of_an_environment_need_no_plus() -> None:
    cfg = train_config("env=search", "env.top_k=5", "reward.extra={_target_: rewards.outcome.Outcome}")
    assert (cfg.env["top_k"], set(cfg.reward)) == (5, {"outcome", "format", "length", "extra"})


def test_resume_takes_no_other_override(tmp_path: Path) -> None:
    done = call("rl-train", "resume=demo", "steps=100", cwd=tmp_path)
    assert done.returncode != 0
    assert "leave out steps=100" in done.stderr


@pytest.mark.parametrize("given", [(), ("run=a", "path=b")])
def test_rl_eval_wants_one_policy(given: tuple[str, ...], tmp_path: Path) -> None:
    done = call("rl-eval", *given, cwd=tmp_path)
    assert done.returncode != 0
    assert "rl-eval needs one of run=" in done.stderr


def test_rl_eval_names_the_directory_without_a_policy(tmp_path: Path) -> None:
    done = call("rl-eval", "path=nowhere", cwd=tmp_path)
    assert done.returncode != 0
    assert "configuration error: path=nowhere: no such directory" in done.stderr


def test_line_reporter_prints_now_and_then_and_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    report = line_reporter(every_s=1000)
    for done in range(1, 5):
        report("supervised", done, 4, {"sft/loss": 0.123456})
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith("supervised 1/4")
    assert last.startswith("supervised 4/4")
    assert "loss 0.1235" in last
