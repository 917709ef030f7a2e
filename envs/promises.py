"""The promises that a taskset makes about its tasks, one method each: half of what ``envs-check`` checks.

A method returns the figure that was measured, or raises CheckFailed with the task and the values seen, or Skip when
there is nothing to check::

    subject = Subject(lambda split: SearchTaskset(split), tasks=20, step_s=10.0)
    TaskPromises(subject).splits_are_disjoint()       # "nothing shared by 200 train and 200 heldout tasks"

The other half, what happens in episodes, is ``envs.behaviour``.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from envs.episode import NoDemonstratorError
from envs.factory.rows import row_of
from envs.families import taskset_class
from envs.taskset import Split, Taskset, task_key
from envs.types import Task

VERIFIED = 5  # tasks that the taskset's own verify() is tried on: it may be slow
PROCESS_S = 300.0  # the other process that makes the same tasks must answer in this time

Check = tuple[str, Callable[[], str]]
Status = Literal["ok", "skipped", "WARNING", "FAILED", "waived"]


@dataclass(frozen=True)
class Finding:
    """Outcome of one check; ``detail`` holds the figure that was measured, or what is wrong."""

    check: str
    status: Status
    detail: str


class CheckFailed(Exception):
    """A promise is broken; the text says which, with the task and the values seen."""


class Skip(Exception):
    """There is nothing to check, and why."""


class Doubt(Exception):
    """Something that is no fault by itself, but that its author should know before a policy finds it."""


class Subject:
    """The taskset under test, and how many of its tasks are looked at. ``origin``: its name and keywords, if known.
    ``splits``: those that it has, of which the first is looked at."""

    def __init__(
        self, make: Callable[[Split], Taskset], tasks: int, step_s: float,
        origin: tuple[str, Mapping[str, Any]] | None = None, splits: Sequence[Split] = ("train", "heldout"),
    ) -> None:  # fmt: skip
        self.make, self.step_s, self.origin, self.splits = make, step_s, origin, tuple(splits)
        self.taskset = self.again()
        self.count = min(tasks, len(self.taskset))

    def again(self) -> Taskset:
        """The taskset once more, made anew."""
        return self.make(self.splits[0])

    def tasks(self) -> list[Task]:
        return [self.taskset.task(index) for index in range(self.count)]

    def refused(self) -> dict[str, str]:
        """What of the source is no task in any split, and why."""
        return {name: cause for split in self.splits for name, cause in self.make(split).refused.items()}

    def one_per_family(self) -> list[Task]:
        return list({task.family: task for task in reversed(self.tasks())}.values())


class TaskPromises:
    def __init__(self, subject: Subject) -> None:
        self.subject = subject

    def checks(self) -> list[Check]:
        return [
            ("tasks", self.tasks_are_well_formed),
            ("determinism", self.tasks_are_deterministic),
            ("other process", self.another_process_makes_the_same),
            ("verify", self.verify_keeps_some),
            ("splits", self.splits_are_disjoint),
            ("pickle", self.everything_pickles),
            ("resume", self.iteration_resumes),
        ]

    def tasks_are_well_formed(self) -> str:
        ids = Counter(task.id for task in self.subject.tasks())
        twice = [i for i, n in ids.items() if n > 1]
        if twice:
            raise CheckFailed(f"task id {twice[0]!r} is used {ids[twice[0]]} times")
        for task in self.subject.tasks():
            if not task.prompt or not (task.prompt[-1].role in ("user", "developer") or task.prompt[-1].prefix):
                raise CheckFailed(f"{task.id}: the prompt must end with a user message, or with a prefix")
            try:
                json.dumps(task.answer), json.dumps(dict(task.metadata))
            except TypeError as error:
                raise CheckFailed(f"{task.id}: answer and metadata must be JSON values: {error}") from error
        prompts = {_text(task) for task in self.subject.tasks()}
        return f"{self.subject.count} tasks, {len(prompts)} different prompts"

    def tasks_are_deterministic(self) -> str:
        again = self.subject.again()
        for index in reversed(range(self.subject.count)):  # another order: a task must not depend on earlier ones
            first, second = self.subject.taskset.task(index), again.task(index)
            if first != second:
                raise CheckFailed(f"task({index}) differs between two tasksets: {first} and {second}")
        return "same tasks from a second taskset, in another order"

    def another_process_makes_the_same(self) -> str:
        if self.subject.origin is None:
            raise Skip("another process needs the taskset by name")
        name, settings = self.subject.origin
        told = json.dumps([name, self.subject.splits[0], dict(settings), self.subject.count])
        paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
        done = subprocess.run(
            [sys.executable, "-c", "import sys, envs.promises as p; p.print_digest(sys.argv[1])", told],
            env={**os.environ, "PYTHONPATH": paths, "PYTHONHASHSEED": "4711"},
            capture_output=True, text=True, timeout=PROCESS_S,
        )  # fmt: skip
        if done.returncode != 0:
            raise CheckFailed(f"another process could not make the tasks: {done.stderr.strip()[-500:]}")
        theirs, mine = done.stdout.split(), digests(self.subject.tasks())
        differing = [i for i, (one, two) in enumerate(zip(mine, theirs, strict=True)) if one != two]
        if differing:
            raise CheckFailed(
                f"task({differing[0]}) differs in a process with another hash seed "
                f"({len(differing)} of {len(mine)} do): does the order of a set or of files decide?"
            )
        return f"same {len(mine)} tasks with another hash seed"

    def verify_keeps_some(self) -> str:
        tasks = self.subject.tasks()[:VERIFIED]
        try:
            verdicts = Counter(self.subject.taskset.verify(task) or "kept" for task in tasks)
        except NoDemonstratorError as error:
            raise Skip(f"{error}: nothing verifies the tasks") from error
        text = ", ".join(f"{reason} {n}" for reason, n in sorted(verdicts.items()))
        if not verdicts["kept"]:
            raise CheckFailed(f"verify() rejects every one of {len(tasks)} tasks: {text}")
        return text

    def splits_are_disjoint(self) -> str:
        if len(self.subject.splits) < 2:
            raise Skip(f"there is only {self.subject.splits[0]}")
        heldout = self.subject.make("heldout")
        number = min(len(heldout), max(10 * self.subject.count, 200))
        theirs = [heldout.task(i) for i in range(number)]
        mine = [
            self.subject.taskset.task(i)
            for i in range(min(len(self.subject.taskset), max(10 * self.subject.count, 200)))
        ]
        ours, others = ({f"{t.family}: {task_key(t)}": t for t in tasks} for tasks in (mine, theirs))
        if shared := sorted(ours.keys() & others.keys()):
            same = f"{ours[shared[0]].id} and {others[shared[0]].id}"
            raise CheckFailed(f"{len(shared)} tasks stand in both splits, one as {same} (key {shared[0]})")
        groups = [
            {f"{t.family}: {t.metadata['group']}" for t in tasks if "group" in t.metadata} for tasks in (mine, theirs)
        ]
        if leaked := sorted(groups[0] & groups[1]):
            raise CheckFailed(f"{len(leaked)} groups stand in both splits, one is {leaked[0]}")
        return f"nothing shared by {len(mine)} train and {number} heldout tasks"

    def everything_pickles(self) -> str:
        copy = pickle.loads(pickle.dumps(self.subject.taskset))
        task = self.subject.taskset.task(0)
        if pickle.loads(pickle.dumps(task)) != task or copy.task(0) != task:
            raise CheckFailed("a pickled copy gives another task")
        return f"taskset {len(pickle.dumps(self.subject.taskset)):,} bytes, task {len(pickle.dumps(task)):,} bytes"

    def iteration_resumes(self) -> str:
        first = self.subject.again()
        steps = min(3, len(first))
        for _, _ in zip(range(steps), first, strict=False):
            pass
        second = self.subject.again()
        second.load_state_dict(json.loads(json.dumps(first.state_dict())))
        if first.position < len(first) and next(iter(first)) != next(iter(second)):
            raise CheckFailed(f"after {steps} tasks a restored taskset gives another task")
        return f"state {json.dumps(self.subject.taskset.state_dict())}"


def digests(tasks: Sequence[Task]) -> list[str]:
    """One hash per task, over all of it."""
    return [hashlib.sha256(json.dumps(row_of(task), sort_keys=True).encode()).hexdigest() for task in tasks]


def print_digest(told: str) -> None:
    """Run in the other process: the digests of the first tasks of a taskset, one a line."""
    name, split, settings, count = json.loads(told)
    taskset = taskset_class(name)(split=split, **settings)
    print("\n".join(digests([taskset.task(index) for index in range(count)])))


def _text(task: Task) -> str:
    return "\n".join(message.content for message in task.prompt)
