"""Run folders with known numbers, written by ``RunDir`` as a run does: what the tests of `rl-view` look at."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from starlette.testclient import TestClient
from tokenizers import Tokenizer

from envs.types import StopReason
from rl.tracking.rundir import RunDir, step_name
from rl.types import Segment, Trajectory, Usage
from rl.view.server import make_app

BASE = "pkg://rl.bases/tiny_dsa_base"
HOSTILE = "<script>window.stolen = 1</script><img src=x onerror='window.stolen = 2'>\"'>{{ 7 * 7 }}\u202e\x1b[31m"


@cache
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(files("rl.bases") / "tiny_dsa_base" / "tokenizer.json"))


def rollout(
    id: str = "search-0-0", task: str = "search-train/0", family: str = "search", reward: float = 1.0,
    answer: str = "Oslo", *, failure: str | None = None, stop: StopReason = StopReason.ANSWERED, version: int = 0,
    thinking: str = "I search.", prompt: str = "Where is the library?",
) -> Trajectory:  # fmt: skip
    """A rollout with one tool call; its tokens are those of prompt and answer."""
    context, sampled = tokenizer().encode(prompt).ids, tokenizer().encode(answer).ids or [1]
    mask = np.arange(len(context) + len(sampled)) >= len(context)
    segment = Segment(
        tokens=np.array([*context, *sampled], np.int32),
        loss_mask=mask,
        logprobs=np.where(mask, -0.6 * np.arange(len(mask)), 0.0).astype(np.float32),
        versions=np.where(mask, version, -1).astype(np.int32),
    )
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "", "tools": [{"name": "search", "description": "Looks it up."}]},
        {"role": "user", "content": prompt},
        {
            "role": "assistant",
            "content": "",
            "reasoning": thinking,
            "tool_calls": [{"name": "search", "arguments": {"query": "library"}}],
        },
        {"role": "tool", "content": "The library is in Oslo."},
        {"role": "assistant", "content": answer},
    ]
    return Trajectory(
        id=id, task_id=task, family=family, segments=[segment], messages=messages, stop_reason=stop, reward=reward,
        reward_parts={} if failure else {"outcome": reward, "score/outcome": reward}, failure_kind=failure,
        failure_detail="Traceback: the sandbox is gone" if failure else "", turns=2, counts={}, wall_s=1.5,
        usage=Usage(2, 40, 10, 3, 4, len(sampled)),
    )  # fmt: skip


def metrics(step: int) -> dict[str, float]:
    rising = 0.2 + 0.1 * step
    return {
        "reward/mean": rising, "reward/family/search": rising, "reward/family/code": rising / 2,
        "outcome/family/search": rising, "outcome/family/code": rising / 2, "policy/entropy": 0.5 - 0.05 * step,
        "mismatch/max": 1e-5 * step, "mismatch/mean": 1e-7 * step, "length/sampled_mean": 30.0 + step,
        "rollout/tokens_per_s": 1500.0, "learner/tokens_per_s": 5000.0, "learner/grad_norm": 0.3,
        "group/zero_variance": 0.25, "failure/total": 0.0, "time/step_s": 4.0,
    }  # fmt: skip


def make_run(path: Path, *, steps: int = 3, size: int = 4, finished: bool = True) -> RunDir:
    """``steps`` steps of two groups (search, code) of ``size``, between two evaluations of the same two tasks."""
    run = RunDir(path)
    run.write_config(
        f"name: {path.name}\nsteps: {steps}\nbase: {{source: '{BASE}'}}\nobjective: {{advantage_norm: mean}}\n"
    )
    held_out = [("search", "search-heldout/0"), ("code", "code-heldout/0")]
    summary: dict[str, Any] = {}
    for number, name in enumerate(("eval_before", "eval_after") if finished else ("eval_before",)):
        rows = [
            rollout(f"{family}-{g}-{k}", task, family, float(number), f"answer {k} {name}")
            for g, (family, task) in enumerate(held_out)
            for k in range(2)
        ]
        run.log_trajectories(name, rows)
        run.log_metrics(name, 0, {"eval/overall": float(number)})
        summary[name] = {"overall": float(number), "stderr": 0.0, "k": 2, "families": {"search": {}, "code": {}}}
    for step in range(1, steps + 1):
        rows = [
            rollout(
                f"{family}-{step}-{k}", f"{family}-train/{step}", family, k / max(size - 1, 1), f"answer {k} of {step}",
                version=step,
            )
            for family in ("search", "code")
            for k in range(size)
        ]  # fmt: skip
        run.log_trajectories(step_name(step), rows)
        run.log_metrics("grpo", step, metrics(step))
    run.write_summary(summary)
    return run


def client_of(directory: Path) -> TestClient:
    """A client of `rl-view` on ``directory``, without a server."""
    return TestClient(make_app(directory), base_url="http://127.0.0.1")
