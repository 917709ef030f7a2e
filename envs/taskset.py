"""Taskset: where tasks come from. ``task(i)`` depends on (split, seed, i) alone, in every process.

Train and held-out never share a task: a task has a *key* (the fact, the function, the entity it is
about), and ``split_of(key)`` puts every key into exactly one split by a stable hash.

    taskset = SearchTaskset("train", seed=0)
    taskset.task(7) == SearchTaskset("train", seed=0).task(7)
    taskset.next_index(), taskset.next_index()      # 0, 1: what a training run admits, an endless pass
"""

from __future__ import annotations

import hashlib
import inspect
import json
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, TypeVar

from envs.environment import Environment
from envs.episode import demonstrator, play_episode
from envs.types import Task

Split = Literal["train", "heldout"]
T = TypeVar("T")

DEFAULT_SIZE: dict[str, int] = {"train": 100_000, "heldout": 256}
MAX_ORACLE_TURNS = 64  # of the episode that proves a task
_MAX_PROPOSALS = 10_000


def split_of(key: str, heldout_share: float = 0.2) -> Split:
    """The split a key belongs to: sha256(key) as a fraction of 1, held out when below the share."""
    if not 0.0 <= heldout_share <= 1.0:
        raise ValueError(f"heldout_share is {heldout_share}, must be between 0 and 1")
    fraction = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64
    return "heldout" if fraction < heldout_share else "train"


def task_key(task: Task) -> str:
    """What makes two tasks the same: ``metadata["key"]``; without one, all of the task but its id and seed."""
    if "key" in task.metadata:
        return str(task.metadata["key"])
    content = [[message.to_json() for message in task.prompt], task.answer, dict(task.metadata)]
    return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def file_input(path: str | Path) -> dict[str, Any]:
    """What ``Taskset.inputs`` says of a file."""
    with Path(path).open("rb") as file:
        return {"sha256": hashlib.file_digest(file, "sha256").hexdigest()}


class RejectedError(Exception):
    """Raised by ``task`` of a taskset that is made for ``envs-build``: this candidate makes no task. ``reason`` is one
    word, counted on the card."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"{reason}: this candidate makes no task; train on what envs-build makes of the family")
        self.reason = reason


class Taskset(ABC):
    """A deterministic, indexable, resumable source of tasks.

    Subclasses set ``family`` and ``env_class`` and define ``task``. Keywords that a subclass does not
    take itself are settings of its environment and go to ``env_class(task, **settings)``.
    """

    family: str
    env_class: type[Environment]
    chance: ClassVar[float] = 0.1  # mean outcome that doing nothing, or calling tools at random, may reach (envs-check)
    version: ClassVar[int] = 1  # raise it when the environment can no longer play tasks that were built before
    licence: ClassVar[str] = ""  # of the material in the tasks: shown on the card of a built data set
    # Keywords that change neither a task nor its score: a certificate (envs.certificate) holds with others too.
    of_no_account: ClassVar[frozenset[str]] = frozenset({"split", "seed", "size", "max_turns"})
    given: Mapping[str, Any]  # the keywords it was made with
    refused: Mapping[str, str] = {}  # what of its source it cannot play: the cause by name (envs.foreign)
    judged_together: ClassVar[int] = 4  # tasks that envs-build gives ``verify_all`` at once
    packages: ClassVar[tuple[str, ...]] = ()  # distributions the tasks are made from; the card has their versions
    # Assistant messages that an episode needs, mistakes included: what `rollout.max_turns=null` takes. None: twice as
    # many as the oracle needs. `env.max_turns=12` sets it too.
    max_turns: int | None = None

    def __new__(cls, *args: Any, **keywords: Any) -> Self:
        made = super().__new__(cls)
        names = list(inspect.signature(cls.__init__).parameters)[1:]
        made.given = {**dict(zip(names, args, strict=False)), **keywords}
        return made

    def __init__(
        self, split: Split = "train", seed: int = 0, size: int | None = None, *, max_turns: int | None = None,
        **config: Any,
    ) -> None:  # fmt: skip
        if split not in DEFAULT_SIZE:
            raise ValueError(f"split is {split!r}, must be one of {', '.join(DEFAULT_SIZE)}")
        if size is not None and size < 1:
            raise ValueError(f"size is {size}, must be at least 1 (or None for {DEFAULT_SIZE[split]})")
        self.split: Split = split
        self.seed = int(seed)
        self.size = DEFAULT_SIZE[split] if size is None else int(size)
        if max_turns is not None:
            if max_turns < 1:
                raise ValueError(f"max_turns is {max_turns}, must be at least 1")
            self.max_turns = int(max_turns)
        self.config = config
        self.position = 0  # tasks handed out in this pass over the taskset
        self.epoch = 0  # passes that are over

    @abstractmethod
    def task(self, index: int) -> Task:
        """Task number ``index``; the same for the same (split, seed, index)."""

    def environment(self, task: Task) -> Environment:
        """A fresh environment for one episode of ``task``."""
        return self.env_class(task, **self.config)

    def verify(self, task: Task) -> str | None:
        """None when the task is worth keeping, else one word for why not; ``envs-build`` counts these.

        Default: the oracle must score 1. Families add what else must hold: a weak answerer must fail, a defect must
        break a test, and the like.
        """
        environment = self.environment(task)
        _, scores = play_episode(task, environment, demonstrator(environment), max_turns=MAX_ORACLE_TURNS)
        return None if scores["outcome"] >= 1.0 else "oracle_failed"

    def verify_all(self, tasks: Sequence[Task]) -> Sequence[str | None] | None:
        """What ``verify`` says of each, for a family that is cheaper on several; None: each by itself."""
        return None

    # -- for subclasses ----------------------------------------------------------------------

    def task_id(self, index: int) -> str:
        return f"{self.family}/{self.split}/{self.seed}/{index}"

    def rng(self, index: int) -> random.Random:
        """The random stream of task ``index``: its own for every family, split and seed."""
        # prefixed, so that nobody who seeds by a task's id draws the numbers that made the task
        return random.Random(f"task {self.task_id(index)}")

    def draw(self, index: int, propose: Callable[[random.Random], tuple[str, T]]) -> tuple[str, T]:
        """The first proposal ``(key, payload)`` whose key belongs to this taskset's split."""
        rng = self.rng(index)
        for _ in range(_MAX_PROPOSALS):
            key, payload = propose(rng)
            if split_of(key) == self.split:
                return key, payload
        raise RuntimeError(
            f"{type(self).__name__}: none of {_MAX_PROPOSALS} proposals is in split {self.split!r}; "
            f"last key {key!r}: the keys are too few"
        )

    # -- what a training run asks and tells --------------------------------------------------

    def index_at(self, turn: int) -> int:
        """The index of task number ``turn`` of an endless pass over the taskset: here one pass after the other, in
        order. A function of (split, seed, turn) alone."""
        return turn % len(self)

    def next_index(self) -> int:
        """The index of the task to admit next: an endless pass over the taskset in the order of ``index_at``."""
        turn = self.epoch * len(self) + self.position
        self.epoch, self.position = divmod(turn + 1, len(self))
        return self.index_at(turn)

    def observe(self, index: int, outcomes: Sequence[float]) -> None:
        """The raw outcomes of a group of episodes of task ``index`` that was trained on, in the order of training.

        Nothing is learnt from them here; ``envs.curriculum`` chooses later tasks by them.
        """
        return None

    def metrics(self) -> dict[str, float]:
        """Numbers to log along with those of a training step; documented in ``rl.tracking.metrics``."""
        return {}

    def fingerprint(self) -> str:
        """What the tasks depend on besides keywords and source code; "" for nothing. Here: what ``inputs`` lists,
        whatever its name is."""
        return " ".join(sorted(about["sha256"] for about in self.inputs().values()))

    def inputs(self) -> dict[str, dict[str, Any]]:
        """What the tasks are read from: ``sha256``, and ``rows`` where it has some, by the name of the file or data
        set, as it was when the taskset opened (``file_input``). A run resumes with the same alone, and a cached stage
        is reused with the same alone: a taskset that reads a file names it here."""
        return {}

    # -- iteration and resumption ------------------------------------------------------------

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[Task]:
        """The rest of the present pass; the next iteration is another pass."""
        while self.position < self.size:
            self.position += 1  # before the yield: a task that was handed out counts as used
            yield self.task(self.index_at(self.epoch * len(self) + self.position - 1))
        self.epoch, self.position = self.epoch + 1, 0

    def state_dict(self) -> dict[str, Any]:
        return {
            "family": self.family, "split": self.split, "seed": self.seed, "epoch": self.epoch,
            "position": self.position, "inputs": self.inputs(),
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises ValueError when the state is another taskset's, or of other data."""
        mine = self.state_dict()
        for key in ("family", "split", "seed"):
            if state[key] != mine[key]:
                raise ValueError(f"taskset state has {key}={state[key]!r}, this taskset has {mine[key]!r}")
        if "inputs" not in state:
            raise ValueError("the taskset's state was written by an earlier version of this package: start a new run")
        self.check_inputs(state["inputs"])
        self.epoch, self.position = int(state["epoch"]), int(state["position"])

    def check_inputs(self, stored: Mapping[str, Mapping[str, Any]]) -> None:
        """Raise ValueError when what the tasks are read from is not what ``inputs()`` was at a checkpoint."""
        mine = self.inputs()
        for name, then in stored.items():
            if (now := mine.get(name)) != then:
                raise ValueError(
                    f"{name} has changed since the checkpoint (split {self.split}: {_difference(then, now)}): put back "
                    "what it was, or start a new run"
                )


def _difference(then: Mapping[str, Any], now: Mapping[str, Any] | None) -> str:
    if now is None:
        return "it is not read any more"
    if then.get("rows") != now.get("rows"):
        return f"it had {then.get('rows')} rows, now it has {now.get('rows')}"
    return "other content" if "rows" not in now else f"{now['rows']} rows as before, with other content"
