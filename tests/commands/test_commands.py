"""The console scripts: quick help, wrong keys and values are errors that name them, progress lines."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest
from in_process import command
from train_runs import train_config

from rl.commands.hydra import line_reporter

BIN = Path(sys.executable).parent


def call(name: str, *overrides: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """In a process of its own, as from a shell."""
    return subprocess.run([str(BIN / name), *overrides], cwd=cwd, capture_output=True, text=True, timeout=240)


@pytest.mark.run
@pytest.mark.parametrize("name", ["rl-train", "rl-eval", "rl-coldstart", "rl-pretrain"])
def test_help_is_quick(name: str, tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = call(name, "--help", cwd=tmp_path)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0
    assert "env:" in done.stdout
    # Seconds of computing, not of waiting for a core; torch alone would take longer to import.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 3  # about 0.6 s
    assert list(tmp_path.iterdir()) == []


@pytest.mark.run
@pytest.mark.parametrize(("name", "override"), [("rl-train", "no_such_field=1"), ("rl-eval", "path=nowhere")])
def test_a_shell_is_told_that_it_failed(name: str, override: str, tmp_path: Path) -> None:
    done = call(name, override, cwd=tmp_path)
    assert done.returncode != 0
    assert override.split("=")[0 if name == "rl-train" else 1] in done.stderr


def test_composing_the_configuration_loads_nothing_heavy() -> None:
    code = """
import sys
import rl.commands.train, rl.commands.evaluate, rl.commands.cold_start, rl.commands.pretrain, rl.commands.adapt
import rl.commands.chat, rl.commands.doctor, rl.commands.compare, rl.commands.judge_agreement, rl.commands.hydra
import rl.commands.view, rl.commands.serve
from configs.schema import register
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
register()
with initialize_config_module("configs", version_base="1.3"):
    for name in ("train", "evaluate", "coldstart", "pretrain", "adapt", "doctor", "compare", "chat", "gateway", "view"):
        OmegaConf.to_object(compose(name))
heavy = ("torch", "vllm", "ray", "transformers", "wandb", "datasets", "tantivy")
print([name for name in heavy if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=240)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("rollout.top_p=3", "configuration error: rollout.top_p=3.0: must be in (0, 1]"),
        (
            "learner.train_indexer=maybe",
            "configuration error: learner.train_indexer='maybe': must be one of frozen, kl",
        ),
        ("env._target_=no_module.Nothing", "env._target_=no_module.Nothing"),
        (
            "env._target_=envs.mixture.Nothing",
            "configuration error: env._target_=envs.mixture.Nothing: no taskset 'envs.mixture.Nothing': module "
            "'envs.mixture' has no 'Nothing'",
        ),
        ("env._target_=rewards.outcome.Outcome", "env._target_=rewards.outcome.Outcome"),
        ("experiment=my_model", "configuration error: policy.path is missing: policy.preset=hf needs"),
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
    done = command("rl-train", override, cwd=tmp_path)
    assert done.returncode == 2
    assert said in done.output
    assert "Traceback" not in done.output
    assert list(tmp_path.iterdir()) == []


def test_an_overlay_that_is_no_yaml_is_named(tmp_path: Path) -> None:
    place = tmp_path / "settings" / "env"
    place.mkdir(parents=True)
    (place / "mine.yaml").write_text("_target_: my_module.Mine\ntop: {a: [1\n")
    done = command("rl-train", "--config-dir", "settings", "env=mine", cwd=tmp_path)
    assert done.returncode == 2
    (line,) = done.output.strip().splitlines()
    assert line.startswith("configuration error: no YAML: ")
    assert f'"{place / "mine.yaml"}", line 3' in line


def test_settings_of_an_environment_need_no_plus() -> None:
    cfg = train_config("env=search", "env.top_k=5", "reward.extra={_target_: rewards.outcome.Outcome}")
    assert (cfg.env["top_k"], set(cfg.reward)) == (5, {"outcome", "format", "length", "extra"})


def test_resume_takes_no_other_override(tmp_path: Path) -> None:
    done = command("rl-train", "resume=demo", "steps=100", cwd=tmp_path)
    assert done.returncode != 0
    assert "leave out steps=100" in done.output


@pytest.mark.parametrize("given", [(), ("run=a", "path=b")])
def test_rl_eval_wants_one_policy(given: tuple[str, ...], tmp_path: Path) -> None:
    done = command("rl-eval", *given, cwd=tmp_path)
    assert done.returncode != 0
    assert "rl-eval needs one of run=" in done.output


def test_rl_eval_names_the_directory_without_a_policy(tmp_path: Path) -> None:
    done = command("rl-eval", "path=nowhere", cwd=tmp_path)
    assert done.returncode != 0
    assert "configuration error: path=nowhere: no such directory" in done.output


def test_line_reporter_prints_now_and_then_and_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    report = line_reporter(every_s=1000)
    for done in range(1, 5):
        report("supervised", done, 4, {"sft/loss": 0.123456})
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith("supervised 1/4")
    assert last.startswith("supervised 4/4")
    assert "loss 0.1235" in last


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((), "rl-chat needs run=<name of a run> or path=<policy directory>"),
        (("run=a", "path=b"), "got run=a and path=b"),
        (("run=nothing",), "no policy at 'runs/nothing/policy'"),
        (("path=nowhere",), "path=nowhere: no such directory"),
        (("path=pkg://rl.bases/tiny_dsa_base", "tasks=0"), "tasks=0: must be at least 1"),
        (("path=pkg://rl.bases/tiny_dsa_base", "env=search", "task=999"), "the held-out tasks are 0 to 255"),
        (("path=pkg://rl.bases/tiny_dsa_base", "env=search", "env.hops=3"), "hops"),
    ],
)
def test_rl_chat_says_what_is_wrong(given: tuple[str, ...], said: str, tmp_path: Path) -> None:
    done = command("rl-chat", *given, cwd=tmp_path)
    assert done.returncode == 2
    assert "configuration error: " in done.output
    assert said in done.output
    assert "Traceback" not in done.output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("given", "key", "said"),
    [
        ((), None, "rl-gateway needs run=<name of a run> or path=<policy directory>"),
        (("run=a", "path=b"), None, "got run=a and path=b"),
        (("run=nothing",), None, "no policy at 'runs/nothing/policy'"),
        (("path=pkg://rl.bases/tiny_dsa_base",), "short", "key_env=SPECIALE_GATEWAY_KEY: the key in it must be 16"),
        (("path=pkg://rl.bases/tiny_dsa_base",), "a/key/with/slashes/in/it", "key_env=SPECIALE_GATEWAY_KEY"),
        (("path=pkg://rl.bases/tiny_dsa_base", "host=203.0.113.7"), None, "host=203.0.113.7 port=8422: Cannot assign"),
        (("path=pkg://rl.bases/tiny_dsa_base", "port=70000"), None, "port=70000: must be in [0, 65535]"),
        (("path=pkg://rl.bases/tiny_dsa_base", "port=0", "rollout.context.policy=summary"), None, "use none"),
    ],
)
def test_rl_gateway_says_what_is_wrong(
    given: tuple[str, ...], key: str | None, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SPECIALE_GATEWAY_KEY", raising=False)
    if key is not None:
        monkeypatch.setenv("SPECIALE_GATEWAY_KEY", key)
    done = command("rl-gateway", *given, cwd=tmp_path)
    assert done.returncode == 2
    assert "configuration error: " in done.output
    assert said in done.output
    assert "Traceback" not in done.output
    assert key is None or key not in done.output
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_the_user_has_groups_and_experiments(tmp_path: Path) -> None:
    for file, text in (
        ("env/store.yaml", "_target_: my_store.MyStoreTaskset\nlevel: 3\n"),
        ("experiment/careful.yaml", "# @package _global_\nobjective: {clip: 0.125}\n"),
    ):
        (tmp_path / "settings" / file).parent.mkdir(parents=True)
        (tmp_path / "settings" / file).write_text(text)
    words = ("--config-dir", "settings", "env=store", "experiment=careful", "--cfg", "job")
    done = command("rl-train", *words, cwd=tmp_path)
    assert done.returncode == 0, done.output
    assert "_target_: my_store.MyStoreTaskset\n  level: 3" in done.output
    assert "clip: 0.125" in done.output
    done = command("rl-train", "env=store", "--cfg", "job", cwd=tmp_path)
    assert "env=store: no such choice" in done.output
    assert done.returncode != 0
