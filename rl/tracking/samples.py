"""A few rollouts of a run to read: what the report shows of its trajectories files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rl.tracking.rundir import RunDir
from rl.tracking.usage import TOKENS
from rl.types import OUTCOME

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


@dataclass(frozen=True)
class Pair:
    """One held-out task before and after training: a typical rollout of each, and the mean outcome of all."""

    what: str  # most improved | unchanged | most worsened
    family: str
    task: str
    before: Sample
    after: Sample
    mean_before: float
    mean_after: float
    k: int  # rollouts of the task, the fewer of before and after


def before_and_after(run_dir: RunDir) -> list[Pair]:
    """The held-out task that training improved most, one that it left as it was, the one that it worsened most: each
    where there is one in both evaluations. Masked rollouts are left out."""
    found = [_by_task(run_dir.read_trajectories(name)) for name in ("eval_before", "eval_after")]
    change = {task: _mean(found[1][task]) - _mean(found[0][task]) for task in sorted(found[0].keys() & found[1].keys())}
    better, worse = [t for t in change if change[t] > 0], [t for t in change if change[t] < 0]
    same = [t for t in change if not change[t]]
    chosen = [
        ("most improved", max(better, key=lambda t: change[t], default=None)),
        # rather one that is neither always right nor always wrong
        ("unchanged", min(same, key=lambda t: abs(_mean(found[0][t]) - 0.5), default=None)),
        ("most worsened", min(worse, key=lambda t: change[t], default=None)),
    ]
    return [_pair(what, found[0][task], found[1][task]) for what, task in chosen if task is not None]


def _by_task(rows: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], list[Mapping[str, Any]]]:
    """Scored rollouts by (family, task)."""
    tasks: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["failure_kind"] is None and row["reward_parts"].get(OUTCOME) is not None:
            tasks.setdefault((row["family"], row["task_id"]), []).append(row)
    return tasks


def _mean(rows: list[Mapping[str, Any]]) -> float:
    return sum(float(row["reward_parts"][OUTCOME]) for row in rows) / len(rows)


def _pair(what: str, before: list[Mapping[str, Any]], after: list[Mapping[str, Any]]) -> Pair:
    change = _mean(after) - _mean(before)

    def typical(rows: list[Mapping[str, Any]], sign: float) -> Sample:
        """The rollout whose outcome is nearest to the mean; of several the one that shows the change."""

        def distance(row: Mapping[str, Any]) -> tuple[float, float, str]:
            outcome = row["reward_parts"][OUTCOME]
            return abs(outcome - _mean(rows)), sign * outcome, row["id"]

        return _sample(min(rows, key=distance))

    first = before[0]
    return Pair(
        what, first["family"], first["task_id"], typical(before, 1 if change >= 0 else -1),
        typical(after, -1 if change > 0 else 1), _mean(before), _mean(after),
        min(len(before), len(after)),
    )  # fmt: skip


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
