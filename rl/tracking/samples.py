"""A few rollouts of a run to read: what the report shows of its trajectories files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rl.tracking.rundir import RunDir
from rl.tracking.usage import TOKENS

SAMPLES_PER_FAMILY = 4


@dataclass(frozen=True)
class Message:
    """One message of a sample; what it does not have is empty."""

    role: str
    reasoning: str
    content: str
    calls: list[str]  # as code: search(query="x")
    parse_error: str
    tools: str  # names of the tools on offer


@dataclass(frozen=True)
class Sample:
    """One rollout."""

    family: str
    task: str
    reward: float
    reward_parts: Mapping[str, float | None]
    stop_reason: str
    failure_kind: str | None
    counts: Mapping[str, int]
    turns: int
    sampled_tokens: int
    usage: str  # tokens by kind; empty in rows of older versions
    version: int | None  # newest weights that sampled a token of it
    messages: list[Message]


def sample_trajectories(run_dir: RunDir) -> dict[str, list[Sample]]:
    """Sample trajectories: the evaluation before and after when there is one, and the last training step."""
    names = run_dir.trajectory_names()
    steps = [name for name in names if name.startswith("step_")]
    chosen = [name for name in ("eval_after", "eval_before") if name in names] + steps[-1:]
    return {name: [_sample(row) for row in _pick(run_dir.read_trajectories(name))] for name in chosen}


def _pick(rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Per family the best, the worst and the quartiles between, by reward: not only the good ones."""
    families: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        families.setdefault(row["family"], []).append(row)
    picked: list[Mapping[str, Any]] = []
    for _, members in sorted(families.items()):
        ordered = sorted(members, key=lambda row: (-(row["reward"] or 0.0), row["id"]))
        n = min(SAMPLES_PER_FAMILY, len(ordered))
        picked += [ordered[round(i * (len(ordered) - 1) / max(n - 1, 1))] for i in range(n)]
    return picked


def _sample(row: Mapping[str, Any]) -> Sample:
    """A row of a trajectories file (``rl.tracking.rundir.trajectory_json``)."""
    usage = row.get("usage") or {}
    return Sample(
        family=row["family"],
        task=row["task_id"],
        reward=row["reward"] or 0.0,
        reward_parts=row["reward_parts"],
        stop_reason=row["stop_reason"],
        failure_kind=row["failure_kind"],
        counts=row["counts"],
        turns=row["turns"],
        sampled_tokens=row["sampled_tokens"],
        usage=", ".join(f"{kind} {usage[kind]}" for kind in TOKENS) if usage else "",
        version=row["version_max"],
        messages=[readable_message(message) for message in row["messages"]],
    )


def readable_message(message: Mapping[str, Any]) -> Message:
    """A message as a trajectories file has it (``envs.types.Message.to_json``), ready to be shown."""
    return Message(
        role=message["role"],
        reasoning=message.get("reasoning") or "",
        content=message.get("content") or "",
        calls=[_call(call) for call in message.get("tool_calls", ())],
        parse_error=message.get("parse_error") or "",
        tools=", ".join(tool.get("name", "?") for tool in message.get("tools") or ()),
    )


def _call(call: Mapping[str, Any]) -> str:
    arguments = (f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in call["arguments"].items())
    return f"{call['name']}({', '.join(arguments)})"
