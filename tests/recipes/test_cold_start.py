"""The cold start of any environment: what is demonstrated, what is dropped, and what happens when nothing is left."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from train_runs import train_config

from envs.environment import Environment
from envs.taskset import Taskset
from envs.types import Episode, Message, StepResult, Task
from rl.data.demos import CUT, FAILED, NO_ORACLE, WRONG, DemonstrationError, Dropped, demonstrations
from rl.data.fit import Need, Needs
from rl.recipes.cold_start import notices
from rl.recipes.policy_stages import base_stage, coldstart_stage
from rl.rollout.config import RolloutConfig
from rl.run.turn_limit import settle_turns
from rl.tracking.progress import Progress
from rl.tracking.rundir import RunDir

SMALL = ("experiment=smoke", "coldstart.demos=4")


class Count(Environment):
    """A user says a number, the policy the next one, ``answer`` times; no word of reasoning."""

    def step(self, action: Message) -> StepResult:
        self.said = getattr(self, "said", 0) + 1
        return StepResult((Message("user", str(self.said)),), terminated=self.said >= int(self.task.answer))

    def score(self, episode: Episode) -> dict[str, float]:
        return {"outcome": float(self.said >= int(self.task.answer))}

    def oracle(self, history: Sequence[Message]) -> Message:
        return Message("assistant", "one more")


class CountTaskset(Taskset):
    family, env_class = "count", Count
    turns: tuple[int, ...] = (2, 3, 6)

    def task(self, index: int) -> Task:
        prompt = (Message("user", f"{self.split} {index}"),)
        return Task(self.task_id(index), self.family, prompt, self.turns[index % len(self.turns)], {"key": str(index)})


class Silent(Count):
    def oracle(self, history: Sequence[Message]) -> Message:
        raise NotImplementedError("nobody knows")


class SilentTaskset(CountTaskset):
    env_class = Silent


class Wrong(Count):
    def score(self, episode: Episode) -> dict[str, float]:
        return {"outcome": float(int(self.task.answer) == 2)}


class WrongTaskset(CountTaskset):
    env_class = Wrong


class Novice(Wrong):
    def novice(self, history: Sequence[Message], rng: random.Random) -> Message:
        return Message("assistant", "maybe")


class NoviceTaskset(CountTaskset):
    env_class = Novice
    turns = (2, 3, 99)


class BrokenTaskset(CountTaskset):
    def environment(self, task: Task) -> Environment:
        raise RuntimeError("no database")


def start(tmp_path: Path, taskset: str, *overrides: str) -> tuple[dict[str, Any], str, Any, Any]:
    """(summary, what was said, base, result) of the stage."""
    cfg = train_config(f"env._target_=test_cold_start.{taskset}", f"cache_dir={tmp_path}", *SMALL, *overrides)
    said, summary = io.StringIO(), {}
    progress = Progress((), console=Console(file=said, width=500))
    base = base_stage(cfg, RunDir(tmp_path), progress)
    result = coldstart_stage(cfg, base, globals()[taskset](size=3), RunDir(tmp_path), progress, summary)
    return summary["cold_start"], said.getvalue(), base, result


@pytest.mark.parametrize("as_rollouts", [False, True])
def test_an_oracle_without_reasoning_that_a_user_answers(tmp_path: Path, as_rollouts: bool) -> None:
    told, said, base, result = start(tmp_path, "CountTaskset", f"coldstart.as_rollouts={as_rollouts}")
    kept = 2 if as_rollouts else 3  # the limit of four turns cuts the task of six
    assert result.path != base.path
    assert (told["asked"], told["demos"], told["demo_outcome"]) == (4, kept, {"count": 1.0})
    assert told["dropped"] == ({CUT: 1} if as_rollouts else {})
    assert "3 tasks for coldstart.demos=4: each is demonstrated once" in said
    assert told["needs"]["turns"]["max"] == (3 if as_rollouts else 6)
    assert ("set rollout.max_turns=6" in said) == (not as_rollouts)
    again = start(tmp_path, "CountTaskset", f"coldstart.as_rollouts={as_rollouts}")
    assert again[3].reused
    assert again[0] == told  # a cached stage says the same


@pytest.mark.parametrize(("taskset", "why"), [("SilentTaskset", NO_ORACLE), ("WrongTaskset", WRONG)])
@pytest.mark.parametrize("as_rollouts", [False, True])
def test_without_a_usable_demonstration_training_starts_from_the_base(
    tmp_path: Path, taskset: str, why: str, as_rollouts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CountTaskset, "turns", (3,))
    told, said, base, result = start(tmp_path, taskset, f"coldstart.as_rollouts={as_rollouts}")
    assert result == base
    assert told["dropped"] == {why: 3}
    (sentence,) = told["notices"]
    assert sentence.startswith("off, RL starts from the base policy: none of 3 tasks has a demonstration")
    assert f"cold start: {sentence}" in said


def test_what_is_dropped_is_counted_and_the_novice_may_be_wrong() -> None:
    dropped = Dropped()
    kept = list(demonstrations(NoviceTaskset(size=6), range(6), 1.0, 0, dropped=dropped))
    assert [(d.turns, d.outcome) for d in kept] == [(2, 1.0), (3, 0.0), (2, 1.0), (3, 0.0)]
    assert dict(dropped.counts) == {CUT: 2}
    dropped = Dropped()
    assert [d.outcome for d in demonstrations(WrongTaskset(size=6), range(6), 1.0, 0, dropped=dropped)] == [1.0, 1.0]
    assert dict(dropped.counts) == {WRONG: 4}  # where there is no novice the oracle is asked, and held to its outcome
    assert "4 by the oracle and not solved (count/train/0/1: 3 turns, outcome 0)" in dropped.words()
    with pytest.raises(DemonstrationError, match=r"3 of 5 demonstrations failed.*RuntimeError: no database"):
        list(demonstrations(BrokenTaskset(size=6), range(5), 1.0, 0, dropped=dropped))
    assert dropped.counts[FAILED] == 3


def test_how_many_turns_an_episode_may_have() -> None:
    open_limit = RolloutConfig()
    assert settle_turns(open_limit, CountTaskset()) == [
        "rollout.max_turns=12: what the family count needs (set it to have another limit)"
    ]
    assert open_limit.max_turns == 12  # twice the oracle's
    declared = RolloutConfig()
    assert settle_turns(declared, CountTaskset(max_turns=7))
    assert declared.max_turns == 7
    usual = RolloutConfig()
    assert settle_turns(usual, SilentTaskset()) == []
    assert usual.max_turns == 4
    (warning,) = settle_turns(RolloutConfig(max_turns=5), CountTaskset())
    assert "rollout.max_turns=5 is less than the environment needs (count 12)" in warning
    assert settle_turns(RolloutConfig(max_turns=12), CountTaskset()) == []


def test_the_default_mixture_keeps_its_four_turns() -> None:
    from envs.mixture import MixTaskset

    config = RolloutConfig()
    assert settle_turns(config, MixTaskset()) == []
    assert config.max_turns == 4


def test_the_settings_that_make_room() -> None:
    needs = Needs(Need(4, 6), Need(100, 170), Need(900, 1030))
    assert needs.settings(RolloutConfig()) == [
        "rollout.max_turns=6", "rollout.max_tokens=192", "rollout.max_context=1056",
    ]  # fmt: skip
    assert needs.settings(RolloutConfig(max_turns=6, max_tokens=170, max_context=1030)) == []
    figures = {
        "asked": 8,
        "tasks": 8,
        "demos": 8,
        "dropped_words": "",
        "needs": json.loads(json.dumps(needs.to_json())),
    }
    (sentence,) = notices(figures, RolloutConfig(max_turns=6))
    assert sentence.endswith("set rollout.max_tokens=192 rollout.max_context=1056")
