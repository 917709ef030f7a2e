r"""The reasoning family: a problem, no tools, an answer that is checked by a process of its own.

    user       In a board game Mara has 240 points after the first round. … Please reason step by step, and put your
               final answer within \boxed{}.
    assistant  (reasoning) … \boxed{540}

Two sources: the data sets of reasoning-gym that passed an audit (``gym.py``) and word problems (``word_problems.py``).
outcome = 1 when the data set's own scorer gives full marks (partial credit counts as nothing) or, where the answer is
mathematical, math-verify finds it equal. ``unchecked`` = 1 when the answer made the checker fail: that is the answer's
fault and outcome is 0. What is the infrastructure's fault raises InfrastructureError.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from envs.environment import Environment
from envs.final_answer import SUFFIX
from envs.reasoning.checker import GoldRejectedError, Verdict, shared_checker
from envs.reasoning.gym_questions import KINDS, MATHS, check_package, make_entry, question_key
from envs.reasoning.stories import STORIES
from envs.reasoning.word_problems import word_problem
from envs.taskset import Split, Taskset
from envs.types import Episode, Message, Task

LEVELS = (1, 2, 3, 4)
_LONGEST_ANSWER = 4000  # characters
_NONSENSE = ("zzz", "I do not know.", "[]")
_GUESSES = ("0", "1", "2", "-1", "10", "yes", "no", "True", "False", "None", "A")


class ReasoningEnvironment(Environment):
    """One problem; the first message is the answer."""

    def score(self, episode: Episode) -> dict[str, float]:
        answer = episode.answer
        if answer is None or not answer:
            return {"outcome": 0.0, "unchecked": 0.0}
        verdict = check_answer(self.task, answer)
        return {"outcome": float(verdict.right), "unchecked": float(bool(verdict.why))}

    def oracle(self, history: Sequence[Message]) -> Message:
        return Message("assistant", f"\\boxed{{{self.task.answer}}}")


def check_answer(task: Task, answer: str) -> Verdict:
    """Whether a message answers a task."""
    about = task.metadata
    if about["source"] == "stories":
        return shared_checker(gym=False).check({"gold": task.answer, "answer": answer})
    name = [about["kind"], about["level"], about["entry_seed"]]
    request = {"gold": task.answer, "answer": answer, "gym": name, "key": about["key"], "maths": about["kind"] in MATHS}
    return shared_checker(gym=True).check(request)


class ReasoningTaskset(Taskset):
    """The key is a hash of the question, less case and spaces: no question is in both splits.

    ``stories``: share of word problems. ``levels``: which of 1 (easiest) to 4. ``kinds``: weight by kind of
    reasoning-gym data set, default all alike.
    """

    family = "reasoning"
    env_class = ReasoningEnvironment
    max_turns = 1
    licence = "reasoning-gym, Apache-2.0; word problems of this package"
    packages = ("reasoning-gym", "math-verify")

    def __init__(
        self,
        split: Split = "train",
        seed: int = 0,
        size: int | None = None,
        stories: float = 0.3,
        levels: Sequence[int] = LEVELS,
        kinds: Mapping[str, float] | None = None,
        **config: Any,
    ) -> None:
        super().__init__(split, seed, size, **config)
        if not 0.0 <= stories <= 1.0:
            raise ValueError(f"stories is {stories}, must be between 0 and 1")
        self.levels = tuple(levels)
        if not self.levels or any(level not in LEVELS for level in self.levels):
            raise ValueError(f"levels is {list(levels)}: give some of {', '.join(map(str, LEVELS))}")
        kinds = dict.fromkeys(KINDS, 1.0) if kinds is None else kinds
        unknown = [kind for kind in kinds if kind not in KINDS]
        if unknown:
            raise ValueError(f"kinds has {unknown[0]!r}; known: {', '.join(sorted(KINDS))}")
        # by level, since not every kind has every level
        self._kinds = {
            level: {k: w for k, w in sorted(kinds.items()) if level in KINDS[k] and w > 0} for level in self.levels
        }
        empty = [level for level, found in self._kinds.items() if not found]
        if min(kinds.values(), default=0.0) < 0 or (stories < 1.0 and empty):
            raise ValueError(
                f"kinds is {dict(kinds)}: no weight may be negative, and each of the levels {list(levels)} needs "
                "one above 0"
            )
        self.stories = stories
        if stories < 1.0:
            check_package()

    def task(self, index: int) -> Task:
        def propose(rng: random.Random) -> tuple[str, tuple[str, str, dict[str, Any]]]:
            level = rng.choice(self.levels)
            if rng.random() < self.stories:
                problem = word_problem(rng, level, rng.choice(STORIES).name)
                about = {"source": "stories", "kind": problem.kind, "level": level, "steps": len(problem.steps)}
                return question_key(problem.text), (problem.text, problem.answer, about)
            weights = self._kinds[level]
            kind = rng.choices(list(weights), weights=list(weights.values()))[0]
            while True:  # an entry in a thousand has no answer, or one that no policy could write down
                seed = rng.getrandbits(31)
                _, entry = make_entry(kind, level, seed)
                if 0 < len(str(entry["answer"]).strip()) <= _LONGEST_ANSWER:
                    break
            about = {"source": "reasoning-gym", "kind": kind, "level": level, "entry_seed": seed}
            return question_key(entry["question"]), (entry["question"], str(entry["answer"]), about)

        key, (question, answer, about) = self.draw(index, propose)
        return Task(
            id=self.task_id(index),
            family=self.family,
            prompt=(Message("user", f"{question}\n\n{SUFFIX}"),),
            answer=answer,
            metadata={"key": key, **about},
            seed=self.seed,
        )

    def verify(self, task: Task) -> str | None:
        """Also rejects what nonsense or the question itself solves, and what an everyday guess solves."""
        question = task.prompt[-1].content.removesuffix(SUFFIX).strip()
        try:
            if any(check_answer(task, text).right for text in (*_NONSENSE, question)):
                return "nonsense_scores"
        except GoldRejectedError:
            return "gold_rejected"
        if any(check_answer(task, guess).right for guess in _GUESSES):
            return "guessable"
        return super().verify(task)
