"""A stage whose learner dies begins again, but for a limit, and not when the command is ending anyway."""

from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from train_runs import train_config

from rl.learner.group import LearnerLost
from rl.recipes import stages


class Parts:
    """What ``grpo_stage`` starts again, and how often it did."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.learner: Any = SimpleNamespace(restart=lambda: self.done.append("learner"))
        self.pool: Any = SimpleNamespace(restart=lambda: self.done.append("pool"))
        self.state: dict[str, Any] = {"position": 3}
        self.taskset: Any = SimpleNamespace(state_dict=lambda: self.state, load_state_dict=self.load)

    def load(self, state: dict[str, Any]) -> None:
        self.done.append(f"taskset at {state['position']}")

    def run(self, monkeypatch: pytest.MonkeyPatch, deaths: int, *overrides: str) -> Any:
        def to_the_end(*given: Any) -> Any:
            restarts: int = given[-1]
            self.state["position"] += 1  # what the stage does to the taskset's state
            if restarts < deaths:
                raise LearnerLost("the learner's process is gone")
            return f"ended after {restarts} restarts"

        @contextmanager
        def stage(title: str, total: int) -> Any:
            yield None

        monkeypatch.setattr(stages, "_to_the_end", to_the_end)
        job: Any = SimpleNamespace(progress=SimpleNamespace(stage=stage))
        cfg, files = train_config(*overrides), SimpleNamespace()
        return stages.grpo_stage(job, "GRPO", "grpo", cfg, self.learner, self.pool, self.taskset, files)  # type: ignore[arg-type]


def test_all_of_it_begins_again(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = Parts()
    assert parts.run(monkeypatch, 2) == "ended after 2 restarts"
    assert parts.done == ["learner", "pool", "taskset at 3"] * 2


def test_it_dies_too_often(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = Parts()
    with pytest.raises(LearnerLost, match=r"is gone, and there were 1 restarts in 3600 s \(learner\.max_restarts"):
        parts.run(monkeypatch, 9, "learner.max_restarts=1")
    assert parts.done == ["learner", "pool", "taskset at 3"]


def test_a_signal_that_has_reached_the_learner_too(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = Parts()
    monkeypatch.setattr(stages, "asked", lambda: 15)
    with pytest.raises(LearnerLost, match=r"is gone$"):
        parts.run(monkeypatch, 1)
    assert parts.done == []
