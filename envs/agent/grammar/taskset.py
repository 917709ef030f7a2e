"""``env=worlds``: general-agent tasks in environments that a grammar composes.

    WorldsTaskset(levels=[1], categories=["clinics", "shipping"])

An environment is a number: domain, tables, rules, tools and style are drawn from it (``structure``). A task is made in
rounds: it begins with as many wishes as its level says; while an answerer who overlooks something is right all the
same, it gets one more wish and more rows. What no round mends is tried again with other data, and is counted.

The unit of the split is the environment's normal form (``signature``), or with ``heldout_by=category`` the domain:
train and heldout share none.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator, Sequence
from typing import Any

from envs.agent.general.case import Case
from envs.agent.general.category import check_choice
from envs.agent.general.environment import GeneralEnvironment
from envs.agent.grammar.brief import Unsuitable, as_json
from envs.agent.grammar.domains import DOMAINS
from envs.agent.grammar.grammar_case import RECIPE, GrammarCase
from envs.agent.grammar.signature import signature_of
from envs.agent.grammar.structure import structure_of
from envs.agent.grammar.trial import find_problem
from envs.agent.grammar.wording import request, system
from envs.taskset import MAX_ORACLE_TURNS, Split, Taskset, split_of
from envs.types import Message, Task

ROUNDS = 3  # of raising the difficulty of one plot
PLOTS = 6  # tried in one environment
_ENVIRONMENTS = 40  # tried for one task


class WorldsEnvironment(GeneralEnvironment):
    """A task of WorldsTaskset: its tools belong to it."""

    def case_for(self, task: Task) -> Case:
        return GrammarCase(task.metadata)


class WorldsTaskset(Taskset):
    """``environments``: how many numbers there are, both splits together. ``levels``: wishes at the beginning."""

    family = "worlds"
    env_class = WorldsEnvironment
    licence = "Apache-2.0 (made by this package alone)"

    def __init__(
        self,
        split: Split = "train",
        seed: int = 0,
        size: int | None = None,
        categories: Sequence[str] = (),
        levels: Sequence[int] = (1, 2, 3, 4),
        environments: int = 2400,
        heldout_by: str = "environment",
        goals: Sequence[str] = (),
        **config: Any,
    ) -> None:
        super().__init__(split, seed, size, **config)
        for name, value in (("categories", categories), ("levels", levels), ("goals", goals)):
            if isinstance(value, str) or not isinstance(value, Sequence):
                raise ValueError(f"{name} is {value!r}, must be a list")
        if unknown := [name for name in categories if name not in DOMAINS]:
            raise ValueError(f"categories has {unknown[0]!r}; there are {', '.join(DOMAINS)}")
        check_choice(levels, environments)
        if heldout_by not in ("environment", "category"):
            raise ValueError(f"heldout_by is {heldout_by!r}, must be environment or category")
        known = ("pick", "book", "move", "plan", "audit", "tally")
        if unknown := [goal for goal in goals if goal not in known]:
            raise ValueError(f"goals has {unknown[0]!r}, must be some of {', '.join(known)}")
        self.categories, self.levels, self.goals = tuple(categories), tuple(levels), tuple(goals)
        self.environments, self.heldout_by = environments, heldout_by
        if not any(self._fits(number) for number in range(environments)):
            raise ValueError(
                f"split={split}: none of {environments} environments fits the other settings; raise environments, or "
                "name other categories or goals"
            )

    def task(self, index: int) -> Task:
        rng = self.rng(index)
        level = rng.choice(self.levels)
        rejects: dict[str, int] = {}
        for _ in range(_ENVIRONMENTS):
            number = self._number(rng)
            goal = rng.choice([g for g in structure_of(number).goals if not self.goals or g in self.goals])
            for metadata, problem in attempts(number, goal, level, rng):
                if problem is None:
                    return self._task(index, {**metadata, "rejects": rejects}, rng)
                rejects[problem[0]] = rejects.get(problem[0], 0) + 1
        raise RuntimeError(f"{self.task_id(index)}: no task in {_ENVIRONMENTS} environments ({rejects}); use others")

    def _number(self, rng: random.Random) -> int:
        """A random environment of this taskset's split, categories and goals."""
        while not self._fits(number := rng.randrange(self.environments)):
            continue
        return number

    def _fits(self, number: int) -> bool:
        structure = structure_of(number)
        if self.categories and structure.domain.name not in self.categories:
            return False
        if self.goals and not set(self.goals) & set(structure.goals):
            return False
        by_form = self.heldout_by == "environment"
        unit = signature_of(number).form if by_form else f"category {structure.domain.name}"
        return split_of(unit) == self.split

    def verify(self, task: Task) -> str | None:
        """The oracle plays it through the environment; and once more all that ``find_problem`` looks at."""
        if problem := find_problem(GrammarCase(task.metadata)):
            return problem[0]
        if (reason := super().verify(task)) is None:
            return None
        environment, turns = self.environment(task), 0
        while environment.oracle([Message("assistant")] * turns).tool_calls:
            turns += 1
        return "too_long" if turns >= MAX_ORACLE_TURNS else reason

    def _task(self, index: int, metadata: dict[str, Any], rng: random.Random) -> Task:
        case = GrammarCase(metadata)
        told = {**as_json(case.brief), "rows": dict(case.start.rows)}
        digest = hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()[:16]
        metadata["key"] = f"{metadata['environment']}/{metadata['goal']}/{digest}"
        prompt = (
            Message("system", system(case.structure, case.brief)),
            Message("user", request(case.structure, case.brief, rng)),
        )
        return Task(self.task_id(index), self.family, prompt, metadata=metadata, seed=self.seed)


def attempts(
    number: int, goal: str, level: int, rng: random.Random
) -> Iterator[tuple[dict[str, Any], tuple[str, str] | None]]:
    """(metadata, what is wrong) of one try after the other in an environment, harder ones where it was too easy."""
    structure = structure_of(number)
    for _ in range(PLOTS):
        plot = f"{rng.getrandbits(40):x}"
        for round_ in range(ROUNDS):
            form = signature_of(number).form
            metadata = {
                "level": level, "environment": form, "category": structure.domain.name, "goal": goal, "number": number,
                "plot": plot, "wishes": level + round_, "noise": 2 + level + 3 * round_, "round": round_,
                "recipe": RECIPE,
            }  # fmt: skip
            try:
                problem = find_problem(GrammarCase(metadata))
            except Unsuitable as error:
                problem = str(error), ""
            yield metadata, problem
            if problem is None or problem[0] != "weak":
                break
