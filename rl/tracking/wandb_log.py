"""Weights & Biases: the run's numbers once more, for people who look there. Offline unless asked otherwise.

Scalars go under their own names, those of a stage other than grpo with the stage before them, so that the interface's
sections are groups of metrics and stages::

    reward/mean, loss/total, …          over grpo/step
    coldstart/sft/loss, …               over coldstart/step
    eval_after/eval/overall, …          over eval_after/step

Every stage has its own x axis, since steps restart. Where one direction is good the summary keeps the best value
beside the last one (``reward/mean``: {"max", "last"}; ``rl.tracking.metrics.BEST``). Trajectories go as one table per
logged step under its own key (``trajectories/step_000012``): a table logged again under one key is overwritten in the
interface.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, cast

from envs.url_secrets import cleaned
from rl.tracking.config import TrackingConfig
from rl.tracking.metrics import best_of
from rl.tracking.rundir import RunDir
from rl.types import Trajectory

COLUMNS = (
    "id",
    "task_id",
    "family",
    "reward",
    "reward_parts",
    "stop_reason",
    "failure_kind",
    "turns",
    "sampled_tokens",
    "version",
    "transcript",
)

MAIN = "grpo"  # the stage whose metrics have no prefix


class WandbLog:
    """One wandb run. With mode ``disabled`` wandb is not imported and every call does nothing.

    Args:
        config: the tracking group.
        run_dir: files go to ``runs/<name>/wandb``.
        resolved: the whole resolved config, as plain values.
        name: of the wandb run; None: that of the folder.
    """

    def __init__(
        self, config: TrackingConfig, run_dir: RunDir, resolved: Mapping[str, Any], name: str | None = None
    ) -> None:
        self._config = config
        self._run: Any = None
        if config.wandb == "disabled":
            return
        import wandb  # 1 s to import: only when it is used

        self._wandb = wandb
        self._run = wandb.init(
            project=config.project,
            name=name or run_dir.name,
            group=config.group,
            tags=list(config.tags) or None,
            mode=cast(Literal["offline", "online"], config.wandb),
            dir=str(run_dir.path),
            config=cleaned(resolved),
            # Our own trajectories and tables say what ran; a console log or a code copy adds only weight.
            settings=wandb.Settings(console="off", silent=True, disable_code=True, disable_git=True),
        )
        self._defined: set[str] = set()

    def log(self, stage: str, step: int, metrics: Mapping[str, float]) -> None:
        """Scalars of one step of ``stage``."""
        prefix = "" if stage == MAIN else f"{stage}/"
        self._log(stage, step, {prefix + key: value for key, value in metrics.items()}, prefix)

    def log_trajectories(self, name: str, step: int, trajectories: Sequence[Trajectory]) -> None:
        """A table of up to ``table_rows`` trajectories under the key ``trajectories/<name>``, every
        ``table_every`` steps. The rows are spread over families, best and worst of each first."""
        every = self._config.table_every
        if self._run is None or every == 0 or step % every:
            return
        rows = [_row(t) for t in spread(trajectories, self._config.table_rows)]
        table = self._wandb.Table(columns=list(COLUMNS), data=rows)
        stage, _, last = name.rpartition("/")  # step_000012, grpo/search/step_000012, eval_after
        stage = (stage or MAIN) if last.startswith("step_") else name
        self._log(stage, step, {f"trajectories/{name}": table}, "trajectories/")

    def _log(self, stage: str, step: int, values: Mapping[str, Any], prefix: str) -> None:
        """``values`` over the x axis of ``stage``, which resume may log again: wandb's own counter would refuse that.
        ``prefix`` is what stands before the metrics' own names."""
        if self._run is None:
            return
        axis = f"{stage}/step"
        for name in (axis, *values):
            if name in self._defined:
                continue
            self._defined.add(name)
            if name == axis:
                self._run.define_metric(axis, hidden=True)
            else:
                best = best_of(name.removeprefix(prefix))
                self._run.define_metric(name, step_metric=axis, summary=None if best is None else f"{best},last")
        self._run.log({axis: step, **values})

    def log_summary(self, summary: Mapping[str, Any]) -> None:
        """The summary, less the single tasks: hundreds of columns that nobody reads there."""
        if self._run is not None:
            self._run.summary.update(_without_tasks(json.loads(json.dumps(summary))))

    def finish(self) -> None:
        """Close the run and flush its files. Safe to call twice."""
        if self._run is not None:
            self._run.finish()
            self._run = None


def _without_tasks(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_tasks(inner) for key, inner in value.items() if key != "tasks"}
    return value


def spread(trajectories: Iterable[Trajectory], n: int) -> list[Trajectory]:
    """At most ``n`` trajectories, taking turns between families, and in each between best and worst."""
    families: dict[str, list[Trajectory]] = {}
    for t in trajectories:
        families.setdefault(t.family, []).append(t)
    queues = []
    for _, members in sorted(families.items()):
        ordered = sorted(members, key=lambda t: (-t.reward, t.id))
        queues.append([ordered.pop(0 if i % 2 == 0 else -1) for i in range(len(ordered))])
    picked: list[Trajectory] = []
    for rank in range(max(map(len, queues), default=0)):
        picked += [queue[rank] for queue in queues if rank < len(queue)]
    return picked[:n]


def transcript(messages: Iterable[Mapping[str, Any]]) -> str:
    """Messages (``Message.to_json``) as readable text."""
    blocks: list[str] = []
    for message in messages:
        lines = [f"[{message['role']}]"]
        if message.get("reasoning"):
            lines.append(f"<think>{message['reasoning']}</think>")
        if message.get("content"):
            lines.append(message["content"])
        for call in message.get("tool_calls", ()):
            lines.append(f"-> {call['name']}({json.dumps(call['arguments'], ensure_ascii=False)})")
        if message.get("parse_error"):
            lines.append(f"!! {message['parse_error']}")
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def _row(t: Trajectory) -> list[Any]:
    versions = [int(s.versions[s.loss_mask].max()) for s in t.segments if s.loss_mask.any()]
    return [
        t.id,
        t.task_id,
        t.family,
        t.reward,
        json.dumps(t.reward_parts),
        t.stop_reason.value,
        t.failure_kind or "",
        t.turns,
        t.sampled_tokens,
        max(versions, default=-1),
        transcript(t.messages),
    ]
