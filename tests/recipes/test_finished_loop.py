"""A loop that is killed and goes on: what was finished is trained on once and never sampled again."""

from __future__ import annotations

import contextlib
import copy
import signal
from pathlib import Path
from typing import Any

import pytest
from test_budget_loop import Learner, Pool

from configs.schema import TrainConfig
from envs.interpreter.taskset import InterpreterTaskset
from envs.types import Task
from rl.recipes.grpo import Position, grpo
from rl.rollout.pool import Beside
from rl.run import ending
from rl.run.finished import FOLDER, FinishedGroups, stored
from rl.run.stage_log import StageLog, Totals
from rl.tracking.rundir import RunDir
from rl.types import Group

STEPS, PROMPTS, EVERY = 9, 2, 3


class Killed(BaseException):
    """As SIGKILL: nothing of the loop runs after it but what Python itself unwinds."""


class Sampler(Pool):
    """Finishes the newest order first, and is killed with the driver after ``life`` groups."""

    def __init__(self, life: int = 10**9) -> None:
        super().__init__()
        self.life, self.sampled = life, list[int]()

    def collect(self, n: int, deadline_s: float, beside: Beside | None = None) -> list[Group]:
        if self._finished:
            return [self._finished.popleft()]
        if len(self.sampled) == self.life:
            raise Killed
        self.specs.insert(0, self.specs.pop())
        groups = super().collect(n, deadline_s)
        self.sampled.append(groups[0].id)
        assert self.on_finished is not None
        self.on_finished(groups[0])
        return groups


class Trainer(Learner):
    """Remembers what it trained on, and the checkpoints as they are on disk."""

    def __init__(self) -> None:
        super().__init__()
        self.trained: list[list[int]] = []
        self.states: dict[int, Any] = {}

    def step(self, groups: list[Group], pool: Any) -> dict[str, float]:
        self.trained.append([group.id for group in groups])
        return super().step(groups, pool)

    def save(self, root: Path, step: int, extra: dict[str, Any], keep: int) -> None:
        super().save(root, step, extra, keep)
        self.states[step] = copy.deepcopy(extra)


def life(
    folder: Path, learner: Trainer, pool: Sampler, staleness: int = 1, since: int | None = None,
    taskset: InterpreterTaskset | None = None, **settings: Any,
) -> Position:  # fmt: skip
    """One driver's life: from checkpoint ``since`` (None: the newest, 0: the beginning)."""
    cfg = TrainConfig(
        steps=STEPS, prompts_per_step=PROMPTS, group_size=2, max_staleness=staleness, checkpoint_every=EVERY, **settings
    )
    cfg.tracking.save_batch_every = 0
    taskset = taskset or InterpreterTaskset("train", 0)
    step = max(learner.states, default=0) if since is None else since
    at, totals = Position(), Totals()
    if step:
        at, totals = Position(**copy.deepcopy(learner.states[step]["at"])), Totals(**learner.states[step]["totals"])
        taskset.load_state_dict(at.taskset)
    files = RunDir(folder)
    log = StageLog(cfg, "grpo", files, pool, totals)
    finished = FinishedGroups(files.path / FOLDER, "same", 2**24, cfg.keep_checkpoints)
    parts: Any = (pool, learner)
    grpo(cfg, *parts, taskset, at, log, files.checkpoints, finished)
    return at


@pytest.mark.parametrize("staleness", [0, 1, 3])
@pytest.mark.parametrize("lives", [[1], [5], [7, 3, 4], [2, 2, 2, 2, 2]])
def test_nothing_is_sampled_twice_and_every_group_is_trained_once(
    tmp_path: Path, staleness: int, lives: list[int]
) -> None:
    learner, sampled, last = Trainer(), list[int](), list[list[int]]()
    for length in [*lives, 10**9]:
        pool = Sampler(length)
        learner.trained = []
        since = max(learner.states, default=0)
        with contextlib.suppress(Killed):
            life(tmp_path, learner, pool, staleness)
        sampled += pool.sampled
        last = last[:since] + learner.trained  # steps after the checkpoint are made again, from the same groups
    assert sorted(sampled) == list(range(STEPS * PROMPTS))
    assert last == [list(range(PROMPTS * s, PROMPTS * (s + 1))) for s in range(STEPS)]
    # While others were awaited the learner got groups of that batch alone; the rest went with the step.
    early = [
        sorted([*sent, *(g.id for g in o.waiting)]) for sent, o in zip(learner.sent, learner.overlaps, strict=True)
    ]
    assert [step for step in early if len(step) == PROMPTS][-len(learner.trained) :] == learner.trained
    assert stored(tmp_path / FOLDER) == {}
    rows = RunDir(tmp_path).read_metrics("grpo")
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    assert max(row["staleness/max"] for row in rows) <= staleness
    tasks = [RunDir(tmp_path).read_trajectories(f"step_{s:06d}") for s in range(1, STEPS + 1)]
    assert [[int(row["task_id"].split("/")[-1]) for row in rows[::2]] for rows in tasks] == last


def test_groups_stay_until_the_checkpoint_that_holds_them_is_written(tmp_path: Path) -> None:
    """It is written while two steps go on, and the driver dies before it is there."""

    class Slow(Trainer):
        polled = 0

        def save(self, root: Path, step: int, extra: dict[str, Any], keep: int) -> None:
            super().save(root, step, extra, keep)
            self.polled = 0

        def saved(self, wait: bool = False) -> bool:
            self.polled += 1
            return wait or self.polled == 2

    learner, first = Slow(), Sampler(PROMPTS * (2 * EVERY + 1))
    with pytest.raises(Killed):
        life(tmp_path, learner, first)
    assert sorted(learner.states) == [EVERY, 2 * EVERY]
    assert min(stored(tmp_path / FOLDER)) == 0  # 6, were the newest known to be whole: two of them are kept
    second = Sampler()
    life(tmp_path, learner, second, since=EVERY)
    assert sorted(first.sampled + second.sampled) == list(range(STEPS * PROMPTS))
    assert stored(tmp_path / FOLDER) == {}


class Background(Trainer):
    """A checkpoint is on disk when somebody waits for it; or never (``wrong``)."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong, self.waited = wrong, 0

    def saved(self, wait: bool = False) -> bool:
        self.waited += wait
        if wait and self.wrong and self.waited == 1:  # it is raised once
            raise OSError("no space left")
        return wait


@pytest.mark.parametrize("wrong", [False, True])
def test_an_error_waits_for_the_checkpoint_that_is_being_written(tmp_path: Path, wrong: bool) -> None:
    class Broken(Sampler):
        def collect(self, n: int, deadline_s: float, beside: Any = None) -> list[Group]:
            try:
                return super().collect(n, deadline_s)
            except Killed:
                raise RuntimeError("an engine computes something else") from None

    learner = Background(wrong)
    with pytest.raises(RuntimeError, match="an engine computes something else"):
        life(tmp_path, learner, Broken(PROMPTS * (EVERY + 1)), keep_checkpoints=1)
    assert (sorted(learner.states), learner.waited) == ([EVERY], 1)
    assert min(stored(tmp_path / FOLDER)) == (0 if wrong else PROMPTS * EVERY)


def test_the_groups_of_a_checkpoint_that_failed_stay(tmp_path: Path) -> None:
    learner = Background(wrong=True)
    with pytest.raises(OSError, match="no space left"):
        life(tmp_path, learner, Sampler(), keep_checkpoints=1)
    assert min(stored(tmp_path / FOLDER)) == 0


def test_an_older_checkpoint_finds_its_groups_too(tmp_path: Path) -> None:
    learner, first = Trainer(), Sampler(17)
    with pytest.raises(Killed):
        life(tmp_path, learner, first)
    assert sorted(learner.states) == [3, 6]
    second = Sampler()
    life(tmp_path, learner, second, since=3)  # the checkpoint of step 6 is damaged
    assert sorted(first.sampled + second.sampled) == list(range(STEPS * PROMPTS))


def test_a_damaged_group_is_named_and_its_task_runs_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    learner, first = Trainer(), Sampler(5)
    with pytest.raises(Killed):
        life(tmp_path, learner, first)
    path = stored(tmp_path / FOLDER)[min(first.sampled)]
    path.write_bytes(path.read_bytes()[:-9] + b"damaged!!")
    second = Sampler()
    life(tmp_path, learner, second)
    assert f"finished group {min(first.sampled)} is sampled again: {path} is damaged" in capsys.readouterr().out
    assert sorted([*first.sampled, *second.sampled]) == sorted([*range(STEPS * PROMPTS), min(first.sampled)])


def asked(monkeypatch: pytest.MonkeyPatch, signum: int) -> None:
    monkeypatch.setattr(ending, "_now", ending._Ending())
    ending._now.asked = signum


class Interrupted(Sampler):
    """Where the loop waits for rollouts the signal comes through."""

    def collect(self, n: int, deadline_s: float, beside: Beside | None = None) -> list[Group]:
        try:
            return super().collect(n, deadline_s)
        except Killed:
            raise KeyboardInterrupt from None


@pytest.mark.parametrize(
    ("switch", "signum", "saves"),
    [("sigterm", signal.SIGTERM, True), ("sigterm", signal.SIGINT, False), ("always", signal.SIGINT, True),
     ("never", signal.SIGTERM, False)],
)  # fmt: skip
def test_a_signal_is_answered_by_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, switch: str, signum: int, saves: bool
) -> None:
    learner, pool = Trainer(), Interrupted(9)
    real = Interrupted.collect

    def collect(self: Interrupted, n: int, deadline_s: float, beside: Beside | None = None) -> list[Group]:
        try:
            return real(self, n, deadline_s)
        except KeyboardInterrupt:
            asked(monkeypatch, signum)
            raise

    monkeypatch.setattr(Interrupted, "collect", collect)
    with pytest.raises(KeyboardInterrupt):
        life(tmp_path, learner, pool, checkpoint_on_stop=switch)
    steps = len(learner.trained)
    assert steps > EVERY
    assert (max(learner.states) == steps) is saves
    monkeypatch.setattr(ending, "_now", ending._Ending())
    rest = Sampler()
    at = life(tmp_path, learner, rest)
    assert (at.step, sorted(pool.sampled + rest.sampled)) == (STEPS, list(range(STEPS * PROMPTS)))


def test_a_checkpoint_that_fails_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Gone(Trainer):
        def save(self, root: Path, step: int, extra: dict[str, Any], keep: int) -> None:
            if ending.asked():
                raise RuntimeError("the learner is gone\nwith a traceback")
            super().save(root, step, extra, keep)

    class Ending(Sampler):
        def collect(self, n: int, deadline_s: float, beside: Beside | None = None) -> list[Group]:
            try:
                return super().collect(n, deadline_s)
            except Killed:
                asked(monkeypatch, signal.SIGTERM)
                raise KeyboardInterrupt from None

    with pytest.raises(KeyboardInterrupt):
        life(tmp_path, Gone(), Ending(9))
    assert capsys.readouterr().out == (
        "no checkpoint of step 4: the learner is gone; the steps since the last one run again\n"
    )


def test_a_task_that_cannot_be_made_is_skipped_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Torn(InterpreterTaskset):
        def task(self, index: int) -> Task:
            if index == 3:
                raise LookupError("page 3 is torn out")
            return super().task(index)

    learner, pool = Trainer(), Sampler()
    life(tmp_path, learner, pool, taskset=Torn("train", 0))
    assert sorted(pool.sampled) == [n for n in range(STEPS * PROMPTS) if n != 3]
    assert [3 in step for step in learner.trained].index(True) == 1
    run = RunDir(tmp_path)
    row = run.read_metrics("grpo")[1]
    assert (row["failure/task_error"], row["failure/total"]) == (2, 2)
    (said,) = capsys.readouterr().err.splitlines()[:1]
    assert said.startswith("task interpreter/train/0/3 (group 3) is skipped, task_error: LookupError: page 3 is torn")
    (named,) = learner.states[STEPS]["totals"]["skipped"]
    assert named.startswith("interpreter/train/0/3 (task_error): LookupError: page 3 is torn out")
