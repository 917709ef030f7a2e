"""A wrong path or setting is one line with field, value and fix, and leaves no folder, whichever command it is."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_module
from in_process import command
from omegaconf import OmegaConf
from train_runs import train_config

from configs.schema import PolicyConfig, register
from envs.environment import Environment
from envs.families import taskset_class
from envs.own_agent import OwnAgentTaskset
from envs.taskset import Taskset
from envs.types import Message, Task
from rl.commands.evaluate_settings import results_of
from rl.run.paths import output_directory, output_file, resolve
from rl.run.preflight import ConfigurationError, check_environments, configuration, start_directory
from rl.run.room import check_room

COMMANDS = {
    "train": "train", "coldstart": "cold_start", "pretrain": "pretrain", "evaluate": "evaluate", "adapt": "adapt",
    "agreement": "judge_agreement", "compare": "compare", "doctor": "doctor",
}  # fmt: skip
SHIPPED = "pkg://rl.bases/tiny_dsa_base"


def typed(config: str, *overrides: str) -> Any:
    register()
    with initialize_config_module("configs", version_base="1.3"):
        return OmegaConf.to_object(compose(config, list(overrides)))


@pytest.fixture
def policy_without_tokenizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "config.json").write_text((resolve(SHIPPED) / "config.json").read_text())
    (tmp_path / "hybrid").mkdir()
    (tmp_path / "hybrid" / "config.json").write_text(json.dumps({"model_type": "bamba"}))
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "rows.jsonl").write_text("{}\n[]\n")
    for name, text in (("broken", "steps: [1\n"), ("older", "no_such_field: 1\n"), ("outside", "steps: -1\n")):
        (tmp_path / "runs" / name / "policy").mkdir(parents=True)
        (tmp_path / "runs" / name / "config.yaml").write_text(text)
        (tmp_path / "runs" / name / "policy" / "config.json").write_text("{}")
        (tmp_path / "runs" / name / "summary.json").write_text("{")


@pytest.mark.usefixtures("policy_without_tokenizer")
@pytest.mark.parametrize(
    ("config", "overrides", "said"),
    [
        ("train", ["base.source=nowhere"], "base.source=nowhere: no such directory"),
        ("train", ["base.source=empty"], "base.source=empty: no config.json there"),
        ("train", ["base.source=pkg://rl.bases/other"], "base.source=pkg://rl.bases/other: no such directory"),
        ("train", ["policy.path=nowhere"], "policy.path=nowhere: no such directory"),
        ("train", ["policy.path=bare"], "policy.renderer=v32 with the tokenizer of 'bare': no tokenizer.json"),
        ("train", ["policy=hf", "policy.path=hybrid"], "policy.path=hybrid: model_type=bamba: has layers that keep"),
        ("train", ["policy=hf"], "policy.path is missing: policy.preset=hf needs policy.path=<directory>"),
        ("coldstart", ["policy=hf", "policy.path=hybrid"], "policy.path=hybrid: model_type=bamba: has layers that"),
        ("train", ["policy=deepseek_v32"], "policy.path is missing: policy.preset=deepseek_v32 needs"),
        ("train", ["policy=hf", "base=scratch"], "policy.preset=hf: cannot be built from nothing"),
        ("train", ["base=scratch", "policy.renderer=hf"], "policy.renderer=hf: a policy built from nothing"),
        ("train", ["base=scratch", "policy.overrides={index_top: 3}"], "['index_top'] are no fields"),
        ("train", ["judge=worker", "judge.path=nowhere"], "judge.path=nowhere: no such directory"),
        ("train", ["env=built", "env.path=nowhere"], "nowhere: there is no such folder"),
        ("train", ["env=dataset", "env.path=nowhere.jsonl"], "path='nowhere.jsonl': there is no such file or folder"),
        ("train", ["env=dataset", "env.path=rows.jsonl"], "rows.jsonl, line 1: column prompt: is null"),
        (
            "train",
            ["env=dataset", "env.path=file/rows.jsonl"],
            "path='file/rows.jsonl': there is no such file or folder",
        ),
        (
            "train",
            ["env=mixture", "env.families={mine: 1}", "env.settings={mine: {of: dataset, path: rows.jsonl}}"],
            "mine: rows.jsonl, line 1: column prompt: is null",
        ),
        ("train", ["reward.mine={_target_: rewards.outcome.Nothing}"], "reward.mine: "),
        ("train", ["reward.outcome.no_such_field=1"], "reward.outcome: "),
        ("train", ["env=search", "judge=worker", "self_verification.enabled=true"], "choose env=proof"),
        ("train", ["resume=nothing"], "no run at 'runs/nothing'"),
        ("coldstart", ["base.source=nowhere"], "base.source=nowhere: no such directory"),
        ("coldstart", ["base=scratch"], "base.source=scratch: there is no policy to start from"),
        ("coldstart", ["policy=hf"], "policy.path is missing"),
        ("pretrain", ["policy.preset=hf"], "policy.preset=hf: cannot be built from nothing"),
        ("evaluate", ["path=nowhere"], "path=nowhere: no such directory"),
        ("evaluate", ["path=bare"], "policy.renderer=v32 with the tokenizer of 'bare'"),
        ("evaluate", [f"path={SHIPPED}", "judge=worker", "judge.path=empty"], "judge.path=empty: no config.json there"),
        ("evaluate", [f"path={SHIPPED}", "env=built", "env.path=nowhere"], "nowhere: there is no such folder"),
        ("adapt", ["policy.path=nowhere"], "policy.path=nowhere: no such directory"),
        ("adapt", ["policy=hf", "data.source=needles"], "policy.preset=hf: cannot be built from nothing"),
        ("adapt", [f"policy.path={SHIPPED}", "data.length=128", "data.path=nowhere.txt"], "no such file"),
        ("agreement", ["data=nowhere.jsonl"], "data=nowhere.jsonl: no such file"),
        ("agreement", ["judge=worker"], "judge.path is missing"),
        ("agreement", ["judge=worker", "judge.path=nowhere"], "judge.path=nowhere: no such directory"),
        ("agreement", ["data=rows.jsonl"], "rows.jsonl:1: 'rubric' is missing"),
        ("agreement", ["out=empty"], "out=empty: is a directory; give a file"),
        ("agreement", ["out=file/x.json"], "out=file: 'file' is a file; give a directory"),
        ("train", ["env=search", "env.nope=1"], "SearchEnvironment has no setting 'nope' (value 1); known: "),
        ("train", ["env=mix", "env.settings={search: {nope: 1}}"], "nope"),
        ("train", ["runs_dir=file"], "runs_dir=file: 'file' is a file; give a directory"),
        ("train", ["cache_dir=file/inside"], "cache_dir=file/inside: 'file' is a file; give a directory"),
        ("train", [f"runs_dir={'x' * 300}"], "File name too long; give another directory"),
        ("train", ["resume=broken"], "runs/broken/config.yaml cannot be used: "),
        ("train", ["resume=older"], "runs/older/config.yaml cannot be used: Key 'no_such_field' not in 'TrainConfig'"),
        ("train", ["resume=outside"], "runs/outside/config.yaml cannot be used: steps=-1: must be at least 1"),
        ("evaluate", ["run=broken"], "runs/broken/config.yaml cannot be used: "),
        ("evaluate", ["runs=[broken,older]"], "runs/broken/config.yaml cannot be used: "),
        ("evaluate", [f"path={SHIPPED}", "baseline=broken"], "runs/broken/summary.json is not JSON"),
        ("evaluate", [f"path={SHIPPED}", "out=file"], "out=file: 'file' is a file; give a directory"),
        ("evaluate", [f"path={SHIPPED}", "env=search", "env.nope=1"], "SearchEnvironment has no setting 'nope'"),
        ("evaluate", [], "rl-eval needs one of run="),
        ("coldstart", ["out=file"], "out=file: 'file' is a file; give a directory"),
        ("pretrain", ["out=file"], "out=file: 'file' is a file; give a directory"),
        ("adapt", ["experiment=needle", "runs_dir=file"], "runs_dir=file: 'file' is a file; give a directory"),
        ("compare", ["out=file"], "out=file: 'file' is a file; give a directory"),
        ("compare", [], "sources is empty"),
        ("doctor", [], "run is missing"),
        ("doctor", ["run=nothing"], "no run at 'runs/nothing'"),
    ],
)
def test_a_wrong_setting_leaves_nothing_behind(config: str, overrides: list[str], said: str, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    command = importlib.import_module(f"rl.commands.{COMMANDS[config]}")
    with pytest.raises(ConfigurationError) as refused:
        command.run(typed(config, *overrides))
    assert said in str(refused.value)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("policy.preset=huge", "policy.preset='huge': must be one of tiny_dsa, deepseek_v32, hf"),
        ("policy.renderer=plain", "policy.renderer='plain': must be one of v32, hf"),
        ("rollout.dsa_backend=fast", "rollout.dsa_backend='fast': must be one of auto, native, torch"),
        ("tracking.wandb=off", "tracking.wandb='off': must be one of offline, online, disabled"),
    ],
)
def test_a_value_that_is_none_of_the_choices(override: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        typed("train", override)


def test_where_a_run_starts(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    path = str(tmp_path)
    assert start_directory(PolicyConfig(), SHIPPED) == resolve(SHIPPED)
    assert start_directory(PolicyConfig(), path) == tmp_path
    assert start_directory(PolicyConfig(preset="hf", path=path, renderer="hf"), SHIPPED) == tmp_path
    assert start_directory(PolicyConfig(), "scratch") is None
    assert start_directory(PolicyConfig(preset="deepseek_v32"), "scratch") is None


def test_results_never_go_into_a_package(tmp_path: Path) -> None:
    named = [("tiny_dsa_base", resolve(SHIPPED))]
    assert results_of(typed("evaluate", f"path={SHIPPED}"), named) == Path("runs/eval-tiny_dsa_base")
    assert results_of(typed("evaluate", f"path={tmp_path}"), [("p", tmp_path)]) == tmp_path / "eval"
    several = [("a", tmp_path / "a"), ("b", tmp_path / "b")]
    assert results_of(typed("evaluate", "runs=[a,b]", "runs_dir=kept"), several) == Path("kept/eval-a+b")
    assert results_of(typed("evaluate", f"path={SHIPPED}", "out=here"), named) == Path("here")


def test_an_error_of_another_kind_keeps_its_traceback() -> None:
    with pytest.raises(KeyError), configuration():
        raise KeyError("a bug is no setting")
    with pytest.raises(ConfigurationError, match=r"^no such package$") as refused, configuration():
        raise ImportError("no such package")
    assert isinstance(refused.value.__cause__, ImportError)


class Careless(Taskset):
    """A taskset whose author divides by zero."""

    family = "careless"
    env_class = Environment

    def task(self, index: int) -> Task:
        return Task(self.task_id(index), (Message("user", str(1 // index)),), answer="1")


def test_a_fault_of_an_author_is_told_before_the_start() -> None:
    with pytest.raises(ValueError, match=r"^env, family careless: ZeroDivisionError: integer division"):
        check_environments(Careless())


def test_a_program_keeps_its_own_history(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "1?"}\n' * 8)
    taskset = OwnAgentTaskset(path=tmp_path / "rows.jsonl", agent=lambda base_url, api_key, row: 1.0)
    check_environments(taskset, context="none")
    check_environments(taskset, context="parallel_fewest_step")
    for context in ("summary", "discard_75", "discard_all"):
        with pytest.raises(ValueError, match=rf"rollout\.context\.policy={context}: .* family own_agent .* use none"):
            check_environments(taskset, context=context)
    check_environments(taskset_class("search")(), context="summary")


def test_a_prompt_that_the_chat_template_has_no_form_for() -> None:
    """Tools in a markup that is not known: before there is a run, not as a masked failure of every rollout."""
    from chat_families import FAMILIES, template_text, tokenizer_of

    from envs.search.taskset import SearchTaskset
    from rl.chat.hf_template import HFTemplateRenderer

    template = template_text("qwen25").replace("tool_call>", "function>")
    renderer = HFTemplateRenderer(tokenizer_of(FAMILIES["qwen25"], template))
    with pytest.raises(ValueError, match=r"^env, family search: the chat template of 'qwen25' writes tool calls in a"):
        check_environments(SearchTaskset(), renderer)
    check_environments(SearchTaskset(), HFTemplateRenderer(tokenizer_of(FAMILIES["qwen25"])))


def test_where_results_may_go(tmp_path: Path) -> None:
    assert output_directory("out", tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert output_file("out", tmp_path / "a" / "b.json") == tmp_path / "a" / "b.json"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("gpus", "words", "said"),
    [
        (8, ("cluster=node8",), None),
        (8, ("cluster=node8", "learner.ranks=2", "rollout.workers=6"), None),
        (0, ("learner.ranks=2",), None),  # on CPUs
        (0, ("cluster=nodes4",), None),  # another Ray's machines are not known
        (
            8,
            ("cluster=node8", "learner.ranks=2"),
            r"^learner\.ranks=2 and rollout\.workers=7 with ray\.learner_gpus=1 and ray\.worker_gpus=1 need 9 GPUs, "
            r"and this machine shows 8; lower one of them",
        ),
        (0, ("ray.learner_gpus=1",), r"^rollout\.workers=1 with ray\.learner_gpus=1 .* need 1 GPUs, .* shows 0"),
        (
            2,
            ("learner.ranks=2",),
            r"^ray\.learner_gpus=0 with learner\.ranks=2 on a machine with 2 GPUs: .* set it to 1",
        ),
        (
            0,
            ("learner.ranks=3", "rollout.workers=2", "ray.num_cpus=4"),
            r"^ray\.num_cpus=4: learner\.ranks=3 and rollout\.workers=2 need 5 CPUs, .* at least 5",
        ),
        (
            0,
            ("rollout.env_workers=3", "ray.env_cpus=1.5", "ray.num_cpus=6"),
            r"^ray\.num_cpus=6: rollout\.workers=1 and rollout\.env_workers=3 \(ray\.env_cpus=1\.5\) need 7 CPUs",
        ),
    ],
)
def test_a_local_ray_has_room_for_every_process(
    gpus: int, words: tuple[str, ...], said: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rl.run.local_ray.visible_gpus", lambda: gpus)
    cfg = train_config(*words)
    if said is None:
        check_room(cfg, cfg.learner)
    else:
        with pytest.raises(ValueError, match=said):
            check_room(cfg, cfg.learner)


def test_too_many_ranks_are_refused_before_there_is_a_run(tmp_path: Path) -> None:
    done = command("rl-train", "learner.ranks=3", "ray.learner_gpus=99", cwd=tmp_path)
    assert done.returncode == 2
    assert done.output.count("\n") == 1, done.output
    assert "configuration error: learner.ranks=3 and rollout.workers=1 with ray.learner_gpus=99" in done.output
    assert list(tmp_path.iterdir()) == []


def test_a_rank_has_a_whole_gpu() -> None:
    assert train_config("learner.ranks=2", "ray.learner_gpus=1").learner.ranks == 2
    with pytest.raises(Exception, match=r"ray\.learner_gpus=0\.5 with learner\.ranks=2: .* use 1, or 0 on CPUs"):
        train_config("learner.ranks=2", "ray.learner_gpus=0.5")
