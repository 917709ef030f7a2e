"""A policy behind an OpenAI-compatible endpoint, for agents outside: their episodes are recorded and evaluated.

An engine in this process, without Ray; an episode is a rollout like those of training (``rl.rollout.office``). The
folder is that of an evaluation: ``trajectories/eval_after.jsonl``, a line when an episode ends, ``summary.json``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from rl.recipes.chat import Voice
from rl.rollout.gateway import Gateway
from rl.rollout.office import Outside
from rl.rollout.rollout import rollout
from rl.run import ending
from rl.run.errors import RunStopped
from rl.tracking.episodes import event_counts
from rl.tracking.evaluation import evaluation_metrics
from rl.tracking.usage import UsageBook, tally
from rl.types import OUTCOME, Trajectory

if TYPE_CHECKING:
    from configs.schema import GatewayConfig
    from rewards.compose import RewardComposer
    from rl.tracking.rundir import RunDir

Evaluate = Callable[[Sequence[Trajectory], int], dict[str, Any]]
EVALUATED = "episodes of agents outside"  # nobody has held them out
EVALUATION = "eval_after"  # where reports, rl-view and rl-compare look
_SIGNAL_S = 0.2  # how long a signal may go unseen
_SUMMARY_S = 10.0  # the summary on disk is that old at most, while episodes end


class Book:
    """The episodes that are over, on disk as they end. ``evaluate``: the evaluation of those that have an outcome, and
    of how many samples a task has at most."""

    def __init__(self, rundir: RunDir, cfg: GatewayConfig, policy: str, reward: str, evaluate: Evaluate) -> None:
        self._rundir, self._cfg, self._evaluate = rundir, cfg, evaluate
        self._head = {"reward": reward, "policy": policy, "evaluated": EVALUATED}
        self._all: list[Trajectory] = []
        self._began, self._written = time.monotonic(), -_SUMMARY_S

    def put(self, trajectory: Trajectory) -> None:
        self._rundir.append_trajectory(EVALUATION, trajectory, tokens=self._cfg.save_tokens)
        segments = [replace(segment, replay=None) for segment in trajectory.segments]
        self._all.append(replace(trajectory, segments=segments))  # without the experts: what is left is small
        if time.monotonic() - self._written >= _SUMMARY_S:
            self._written = time.monotonic()
            self._rundir.write_summary(self.summary())

    def summary(self) -> dict[str, Any]:
        """summary.json of the episodes so far; without ``eval_after`` while none has a reward."""
        counts, failures = event_counts(self._all)
        usage = UsageBook()
        usage.put("evaluation", "evaluation", tally(self._all))
        summary: dict[str, Any] = {
            **self._head,
            "wall_s": {"serving": round(time.monotonic() - self._began, 1)},
            "tokens_sampled": sum(t.sampled_tokens for t in self._all),
            "usage": usage.summary(self._cfg.cost),
            "counts": dict(counts),
            "failures": dict(failures),
        }
        scored = [t.task_id for t in self._all if OUTCOME in t.reward_parts]
        if scored:
            most = max(map(scored.count, set(scored)))
            summary[EVALUATION] = self._evaluate(self._all, most)
        return summary

    def finish(self) -> dict[str, Any]:
        """Write what is known at the end; the summary."""
        from rl.tracking.report import write_report

        summary = self.summary()
        if EVALUATION in summary:
            self._rundir.log_metrics(EVALUATION, 0, evaluation_metrics(summary[EVALUATION]))
        self._rundir.write_summary(summary)
        write_report(self._rundir)
        return summary


def serve(
    voice: Voice, composer: RewardComposer, cfg: GatewayConfig, key: str, book: Book, announce: Callable[[str], None]
) -> None:
    """Serve until a signal asks for the end, or ``cfg.episodes`` are over; what is open then is closed.

    ``key``: of whoever may open episodes. ``announce`` is called with ``http://host:port`` once it answers. Raises
    ValueError when the address cannot be had, RunStopped when the engine or the disk fails.
    """
    with ending.held():
        voice.run(_serve(voice, composer, cfg, key, book, announce))


async def _serve(
    voice: Voice, composer: RewardComposer, cfg: GatewayConfig, key: str, book: Book, announce: Callable[[str], None]
) -> None:
    def play(task: Any, open_env: Any, name: str) -> Any:
        return rollout(
            task, open_env, voice.session, voice.generate, composer, cfg.rollout, name, open_gateway=lambda: gateway
        )

    outside = Outside(play, cfg.rollout, book.put)
    try:
        gateway = Gateway(cfg.port, cfg.host, (key, outside))
    except OSError as error:
        raise ValueError(f"host={cfg.host} port={cfg.port}: {error.strerror}; give another") from error
    with closing(gateway):
        announce(gateway.address)
        enough = partial(_enough, cfg.episodes, outside)
        while ending.asked() is None and outside.failed is None and not enough():
            await asyncio.sleep(_SIGNAL_S)
        await outside.finish()
        if outside.failed is not None:
            raise RunStopped(f"the gateway has stopped: {outside.failed}") from outside.failed


def _enough(episodes: int | None, outside: Outside) -> bool:
    return episodes is not None and outside.closed >= episodes
