"""Tasksets of the general agent: made by program, or read from a file that a language model's synthesis wrote.

    GeneralTaskset(categories=["trip", "library"], levels=[3, 4])
    StoredTaskset(path="general.jsonl")

The unit of the split is the environment: train and heldout share no environment, hence no task.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from envs.agent.general.case import RECIPE, ProgramCase, category_named, propose
from envs.agent.general.categories import CATEGORIES
from envs.agent.general.category import Unsuitable, check_choice
from envs.agent.general.checks import reject_reason
from envs.agent.general.environment import GeneralEnvironment, case_of
from envs.taskset import MAX_ORACLE_TURNS, Split, Taskset, file_input, split_of
from envs.types import Message, Task

SYSTEM = "You work for {about}. Use the tools; what they do not tell you, you do not know.{law}"
_ATTEMPTS, _WORLDS = 400, 40


class GeneralTaskset(Taskset):
    """``environments``: how many each category has, both splits together. More levels mean more constraints."""

    family = "general"
    env_class = GeneralEnvironment

    def __init__(
        self,
        split: Split = "train",
        seed: int = 0,
        size: int | None = None,
        categories: Sequence[str] = (),
        levels: Sequence[int] = (1, 2, 3, 4),
        environments: int = 400,
        **config: Any,
    ) -> None:
        super().__init__(split, seed, size, **config)
        self.categories = tuple(categories) or tuple(CATEGORIES)
        for name in self.categories:
            category_named(name)
        check_choice(levels, environments)
        self.levels, self.environments = tuple(levels), environments

    def task(self, index: int) -> Task:
        rng = self.rng(index)
        level = rng.choice(self.levels)
        for attempt in range(_ATTEMPTS):
            if attempt % _WORLDS == 0:  # before another kind of task is taken, other worlds are tried
                category = category_named(rng.choice(self.categories))
                template = rng.choice(category.templates)
            world = self._world(rng, category.name)
            try:
                brief = propose(category, world, template.name, level, rng)
            except Unsuitable:
                continue
            environment = environment_id(category.name, world)
            need = json.loads(json.dumps(brief.need))  # as it will be read back
            digest = hashlib.sha256(json.dumps([template.name, level, need], sort_keys=True).encode()).hexdigest()
            metadata = {
                "key": f"{environment}/{template.name}/{level}/{digest[:16]}",
                "level": level,
                "environment": environment,
                "category": category.name,
                "world": world,
                "template": template.name,
                "need": need,
                "recipe": RECIPE,
            }
            rules = ProgramCase(metadata).start.rules
            law = " " + category.law.format(**rules) if category.law else ""
            text = " ".join(brief.sentences)
            if template.answer is not None:
                text += f"\n\nCall submit_result once. result: {template.answer[1]}"
            return Task(
                id=self.task_id(index),
                family=self.family,
                prompt=(Message("system", SYSTEM.format(about=category.about, law=law)), Message("user", text)),
                metadata=metadata,
                seed=self.seed,
            )
        raise RuntimeError(f"{self.task_id(index)}: no suitable world in {_ATTEMPTS} attempts; use other categories")

    def verify(self, task: Task) -> str | None:
        return _verify(self, task)

    def _world(self, rng: random.Random, category: str) -> int:
        """A random environment of this taskset's split."""
        while True:
            number = rng.randrange(self.environments)
            if split_of(environment_id(category, number)) == self.split:
                return number


def environment_id(category: str, world: int) -> str:
    return f"{category}-{world:04d}"


class StoredTaskset(Taskset):
    """Tasks from the JSON lines that ``synthesise`` writes: environments whose code a language model wrote."""

    family = "general"
    env_class = GeneralEnvironment

    def __init__(
        self, split: Split = "train", seed: int = 0, size: int | None = None, path: str = "", **config: Any
    ) -> None:
        if not path or not Path(path).is_file():
            raise ValueError(f"path is {path!r}, must be a file that envs.agent.general.synthesise wrote")
        lines = [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]
        self.stored = [m for m in lines if split_of(m["environment"]) == split]
        if not self.stored:
            raise ValueError(f"path={path!r} has {len(lines)} tasks, none of them in split {split!r}")
        super().__init__(split, seed, len(self.stored) if size is None else size, **config)
        self.path = path
        self._inputs = {path: file_input(path) | {"rows": len(lines)}}

    def inputs(self) -> dict[str, dict[str, Any]]:
        return self._inputs

    def task(self, index: int) -> Task:
        metadata = self.stored[index % len(self.stored)]
        prompt = (Message("system", metadata["system"]), Message("user", metadata["task"]))
        return Task(self.task_id(index), self.family, prompt, metadata=metadata, seed=self.seed)

    def verify(self, task: Task) -> str | None:
        return _verify(self, task)


def _verify(taskset: Taskset, task: Task) -> str | None:
    if reason := reject_reason(case_of(task)):
        return reason
    environment = taskset.environment(task)
    if (reason := Taskset.verify(taskset, task)) is None:
        return None
    # the oracle has all the turns it needs unless the solution makes very many calls
    turns = 0
    while environment.oracle([Message("assistant")] * turns).tool_calls:
        turns += 1
    return "too_long" if turns >= MAX_ORACLE_TURNS else reason
