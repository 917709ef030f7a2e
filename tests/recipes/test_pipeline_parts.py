"""The pipeline without workers: its families, its tasks, its record of a finished specialist, its result table."""

from __future__ import annotations

import io
import json
from collections import Counter
from pathlib import Path
from typing import Any, cast

import pytest
from rich.console import Console

from configs.schema import EvalConfig, PipelineConfig, TrainConfig
from envs.factory.builder import build
from envs.factory.plan import plan_of
from envs.interpreter.taskset import InterpreterTaskset
from envs.mixture import CYCLE, MixTaskset
from rl.learner.checkpoint import write_manifest
from rl.learner.config import LearnerConfig, LoraConfig
from rl.policy.flops import CostModel
from rl.recipes import specialists, v4_pipeline
from rl.recipes import v32_pipeline as pipeline
from rl.recipes.evaluate import heldout_tasks
from rl.run.assemble import members_of, open_tasksets
from rl.run.job import Job
from rl.run.ledger import Ledger
from rl.run.stage_cache import StageResult
from rl.run.taught import with_directories
from rl.tracking.progress import Progress
from rl.tracking.report import report_html
from rl.tracking.rundir import RunDir
from rl.tracking.summary import pipeline_rows


def test_families_of_a_mixture_and_of_one_family() -> None:
    members = members_of(MixTaskset("train", 0, families={"search": 1.0, "code": 2.0}))
    assert list(members) == ["search", "code"]
    one = InterpreterTaskset("train", 0)
    assert members_of(one) == {"interpreter": one}
    names = pipeline.stage_names(["search", "code"])
    assert names[1:4] == ["GRPO search", "evaluation search", "data search"]
    assert len(set(names)) == len(names) == 2 * 3 + 5
    assert v4_pipeline.stage_names(["search"])[1:] == [
        "GRPO search", "evaluation search", "on-policy distillation", "evaluation after"
    ]  # fmt: skip


def test_a_specialist_is_evaluated_on_the_tasks_that_the_others_are() -> None:
    mix = MixTaskset("heldout", 3, size=32, families={"search": 1.0, "interpreter": 1.0})
    every = [task.id for _, task in heldout_tasks(mix, 4)]
    own = [task.id for _, task in heldout_tasks(mix, 4, "interpreter")]
    assert len(own) == 4
    assert own == [i for i in every if i.startswith("interpreter/")]


def test_a_mixture_evaluates_no_task_twice(tmp_path: Path) -> None:
    rows = [{"prompt": f"{i}?", "answer": "1", "split": "heldout"} for i in range(3)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {"own": {"of": "dataset", "path": str(tmp_path / "a.jsonl"), "split_column": "split"}}
    mix = MixTaskset("heldout", 3, size=32, families={"own": 1.0, "search": 1.0}, settings=settings)
    ids = [task.id for _, task in heldout_tasks(mix, 8)]
    assert [i for i in ids if i.startswith("own/")] == ["own/heldout/0", "own/heldout/1", "own/heldout/2"]
    assert len(ids) == len(set(ids)) == 3 + 8


def test_every_member_of_a_mixture_has_its_held_out_tasks() -> None:
    """Whatever its weight in training; a member with several families has them for each."""
    env = {"_target_": "envs.mixture.MixTaskset", "families": {"search": 10.0, "agent": 0.01, "interpreter": 1.0}}
    tasksets = open_tasksets(env, 0, EvalConfig(n_tasks=5))
    taken = Counter(task.family for _, task in heldout_tasks(tasksets["heldout"], 5))
    assert taken == {"search": 5, "agent": 5, "interpreter": 5}
    trained = Counter(tasksets["train"].task(i).family for i in range(CYCLE))
    assert trained["agent"] == 1
    assert trained["search"] > 100


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A mixture whose member ``built`` holds four families."""
    path = tmp_path_factory.mktemp("data") / "both"
    build(plan_of({"mix": "v32", "tier": "easy", "share": 0.0005, "heldout": 12}), path, 0, "envs-build …")
    return {
        "_target_": "envs.mixture.MixTaskset", "families": {"built": 1.0, "reasoning": 5.0},
        "settings": {"built": {"path": str(path)}},
    }  # fmt: skip


def test_a_member_with_several_families_has_a_turn_for_each(several: dict[str, Any]) -> None:
    heldout = open_tasksets(several, 0, EvalConfig(n_tasks=2))["heldout"]
    taken = Counter(task.family for _, task in heldout_tasks(heldout, 2))
    assert taken == {"search": 2, "agent": 2, "interpreter": 2, "code": 2, "reasoning": 2}


@pytest.mark.parametrize("name", ["specialist_steps", "data_tasks", "keep_per_task"])
def test_sizes_are_at_least_one(name: str) -> None:
    with pytest.raises(ValueError, match=f"pipeline.{name}=0: must be at least 1"):
        PipelineConfig(**{name: 0})


def test_a_finished_specialist_is_not_run_again(tmp_path: Path) -> None:
    """Its record is all that is read: without workers, learner and taskset every other way would raise."""
    out = io.StringIO()
    ledger = Ledger(CostModel(1, 1), None)
    nothing: Any = None
    job = Job(TrainConfig(), RunDir(tmp_path), {}, Progress((), console=Console(file=out)), nothing, ledger, {})
    record = {"steps": 3, "eval": {"overall": 0.5}, "data": {"kept": 7}}
    directory = tmp_path / "stages" / "search"
    directory.mkdir(parents=True)
    (directory / "stage.json").write_text(json.dumps(record))
    start = StageResult(tmp_path, "key", reused=True)
    assert specialists.specialist(job, start, nothing, "search", nothing, data=True) == record
    assert "GRPO search: reused" in out.getvalue()
    with pytest.raises(AttributeError):  # the other one is not finished: it starts
        specialists.specialist(job, cast(StageResult, nothing), nothing, "code", nothing, data=True)


def test_specialists_become_the_teachers_of_their_families(tmp_path: Path, several: dict[str, Any]) -> None:
    """Of all families that one was trained on; the run's own settings stay as they are."""
    nothing: Any = None
    cfg = TrainConfig(pipeline=PipelineConfig(enabled=True, merge="teachers"))
    tasksets = open_tasksets(several, 0, EvalConfig(n_tasks=2))
    job = Job(cfg, RunDir(tmp_path / "run"), tasksets, nothing, nothing, nothing, {})
    objective = v4_pipeline.taught(job).objective
    stages = tmp_path / "run" / "stages"
    assert objective.distill.teacher_for("reasoning") == str(stages / "reasoning" / "policy")
    (built,) = {objective.distill.teacher_for(family) for family in ("search", "agent", "interpreter", "code")}
    assert built == str(stages / "built" / "policy")
    assert objective.reward_weight == 0.0
    assert cfg.objective.distill.teachers == {}


def test_adapters_are_teachers_as_their_last_checkpoint_holds_them(tmp_path: Path) -> None:
    nothing: Any = None
    learner = LearnerConfig(lora=LoraConfig(rank=4))
    cfg = TrainConfig(pipeline=PipelineConfig(enabled=True, merge="teachers"), learner=learner)
    one = {"train": InterpreterTaskset("train", 0)}
    job = Job(cfg, RunDir(tmp_path / "run"), one, nothing, nothing, nothing, {})
    with pytest.raises(ValueError, match="that could teach: no checkpoint"):
        v4_pipeline.taught(job)
    for step in ("step_000001", "step_000002"):
        checkpoint = tmp_path / "run" / "stages" / "interpreter" / "checkpoints" / step
        (checkpoint / "policy").mkdir(parents=True)
        (checkpoint / "policy" / "adapter_config.json").write_text("{}")
        write_manifest(checkpoint)
    found = v4_pipeline.taught(job).objective
    assert found.distill.teachers == {"interpreter": str(checkpoint / "policy")}
    assert with_directories(found, "runs").distill.teachers == {"interpreter": str(checkpoint / "policy")}


def evaluation(**families: float) -> dict[str, Any]:
    n = len(families)
    return {
        "overall": sum(families.values()) / n, "stderr": 0.02, "k": 4, "n_tasks": 10 * n,
        "families": {
            f: {"avg@k": x, "stderr": 0.03, "k": 4, "n_tasks": 10, "reward": x, "sampled_tokens": 9.0, "n_unscored": 0}
            for f, x in families.items()
        },
    }  # fmt: skip


COUNTS = {"sampled": 8, "kept": 3, "failed": 0, "unverified": 0, "not_passed": 4, "duplicate": 1, "over_cap": 0}


def specialist(family: str, score: float) -> dict[str, Any]:
    return {"eval": evaluation(**{family: score}), "data": COUNTS, "steps": 20, "stop_reason": "all 20 steps are done"}


def test_the_table_by_hand_and_in_the_report(tmp_path: Path) -> None:
    summary = {
        "eval_before": evaluation(code=0.3, search=0.4),
        "eval_after": evaluation(code=0.82, search=0.9),
        "pipeline": {
            "specialists": {"search": specialist("search", 0.9), "code": specialist("code", 0.8)},
            "distilled": evaluation(code=0.78, search=0.85),
        },
    }
    code, search, overall = pipeline_rows(summary)
    assert code[:5] == ("code", "0.300 ± 0.030", "0.800 ± 0.020", "0.780 ± 0.030", "0.820 ± 0.030")
    assert code[5:] == ("-0.020 ± 0.036", "+0.020 ± 0.036")
    assert search[6] == "+0.000 ± 0.036"
    # Specialists: mean of both families' tasks, error sqrt(0.02^2 + 0.02^2) / 2.
    assert overall[1:3] == ("0.350 ± 0.020", "0.850 ± 0.014")
    assert overall[5:] == ("-0.035 ± 0.024", "+0.010 ± 0.024")
    run = RunDir(tmp_path)
    run.write_summary(summary)
    run.log_metrics("grpo/search", 1, {"reward/mean": 0.5})
    page = report_html(run)
    assert "distilled − specialists -0.035 ± 0.024, final − specialists +0.010 ± 0.024" in page
    assert "Reward of the specialists in training" in page
    assert "Reverse KL" not in page
    pages = summary["pipeline"]["specialists"]  # as teachers they make no data, and the run has no distilled policy
    taught = {family: {k: v for k, v in one.items() if k != "data"} for family, one in pages.items()}
    run.write_summary(summary | {"pipeline": {"specialists": taught}})
    run.log_metrics("grpo", 1, {"reward/mean": 0.5, "distill/kl/code": 0.2})
    page = report_html(run)
    assert "the policy that they teach" in page
    assert "Over all families: final − specialists +0.010 ± 0.024" in page
    assert "Reverse KL to the teacher" in page
    del summary["pipeline"]["distilled"], summary["eval_after"]  # type: ignore[attr-defined]
    assert pipeline_rows(summary)[-1][3:] == ("–", "–", "–", "–")
    assert pipeline_rows({"eval_before": evaluation(code=0.3)}) == []
