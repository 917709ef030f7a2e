"""Four families on derivations: ``prove``, ``refine``, ``verify``, ``assess`` (see ``envs.proof.derivations``).

One policy plays all roles: mix the families (``env=proof``). What a model is asked comes from ``ShortPrompts``, which
the rewards and the search use too, so that a verifier is asked in training what it is asked later.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from envs.environment import Environment
from envs.proof.derivations import (
    FAIR,
    UNFAIR,
    assessment_text,
    evaluation_of,
    generation,
    noisy_evaluation,
    random_solution,
    rating,
    skipping,
)
from envs.proof.prompts import ShortPrompts
from envs.proof.texts import SCORES, meta_text, parse_evaluation, parse_generation, parse_meta
from envs.reasoning.derivation import ERRORS, OK, Line, Problem, derive, inject, parse_problem, random_problem
from envs.reasoning.derivation import score as true_score
from envs.taskset import Split, Taskset
from envs.types import Episode, Message, Task

NOISE = 0.2  # of a careless judge's verdicts
PROMPTS = ShortPrompts()


class RoleEnvironment(Environment):
    """One message, which is the whole answer; ``problem`` is the derivation it is about."""

    def __init__(self, task: Task, **config: Any) -> None:
        super().__init__(task, **config)
        problem = parse_problem(str(task.metadata["problem"]))
        if problem is None:
            raise ValueError(f"task {task.id}: metadata problem={task.metadata['problem']!r} is no derivation")
        self.problem: Problem = problem


class ProveEnvironment(RoleEnvironment):
    """Solve it, then judge what you wrote. outcome = 1 for a complete and rigorous solution."""

    def score(self, episode: Episode) -> dict[str, float]:
        written = parse_generation(episode.answer or "")
        truth = true_score(self.problem, written.solution) if written.ok else 0.0
        claimed = written.self_score
        return {
            "outcome": float(truth == 1.0),
            "truth": truth,
            "formatted": float(written.ok),
            "self_score": claimed if claimed is not None else 0.0,
            "error": abs(claimed - truth) if claimed is not None else 1.0,
        }

    def oracle(self, history: Sequence[Message]) -> Message:
        lines = derive(self.problem, [1])
        return _written(generation(lines, evaluation_of(self.problem, _text(lines))))

    def novice(self, history: Sequence[Message], rng: random.Random) -> Message:
        """Leaves out steps, makes mistakes, and half the time praises itself unread."""
        lines = derive(self.problem, [1] if rng.random() < 0.4 else skipping(self.problem, rng))
        if rng.random() < 0.3:
            lines = inject(self.problem, lines, rng.choice(ERRORS), rng)
        right = evaluation_of(self.problem, _text(lines))
        if rng.random() < 0.5:
            right = replace(right, claims=tuple((line, OK) for line, _ in right.claims), score=1.0)
        return _written(generation(lines, right))


class VerifyEnvironment(RoleEnvironment):
    """Judge a solution. outcome = 1 for the true score (the program's, not the label that training may use)."""

    def score(self, episode: Episode) -> dict[str, float]:
        read = parse_evaluation(episode.answer or "")
        solution = str(self.task.metadata["solution"])
        truth = true_score(self.problem, solution)
        return {
            "outcome": float(read.score == truth),
            "formatted": float(read.ok),
            "error": abs(read.score - truth) if read.score is not None else 1.0,
            "analysis": rating(self.problem, solution, read),
        }

    def oracle(self, history: Sequence[Message]) -> Message:
        return _written(evaluation_of(self.problem, str(self.task.metadata["solution"])).text)

    def novice(self, history: Sequence[Message], rng: random.Random) -> Message:
        """Careless: some verdicts are wrong, and so is the score that follows from them."""
        return _written(noisy_evaluation(self.problem, str(self.task.metadata["solution"]), NOISE, rng).text)


class AssessEnvironment(RoleEnvironment):
    """Judge an evaluation. outcome = 1 for the true rating."""

    def score(self, episode: Episode) -> dict[str, float]:
        read = parse_meta(episode.answer or "")
        truth = float(self.task.answer)
        return {
            "outcome": float(read.score == truth),
            "formatted": float(read.ok),
            "error": abs(read.score - truth) if read.score is not None else 1.0,
        }

    def oracle(self, history: Sequence[Message]) -> Message:
        return _written(self._assessment())

    def novice(self, history: Sequence[Message], rng: random.Random) -> Message:
        """Careless: takes some fair claims for unfair and the other way round, and guesses some ratings."""
        read = parse_meta(self._assessment())
        lines = [
            _flipped(line) if line.endswith("fair") and rng.random() < NOISE else line
            for line in read.analysis.splitlines()
            if line.strip()
        ]
        score = float(self.task.answer) if rng.random() > NOISE else rng.choice(SCORES)
        return _written(meta_text("\n".join(lines), score))

    def _assessment(self) -> str:
        about = self.task.metadata
        return assessment_text(self.problem, str(about["solution"]), parse_evaluation(str(about["evaluation"])))


class _RoleTaskset(Taskset):
    """``steps``: fewest and most steps of a problem (at most 12). The problem's text is the key of the split."""

    chance = 0.05
    max_turns = 1

    def __init__(
        self,
        split: Split = "train",
        seed: int = 0,
        size: int | None = None,
        steps: Sequence[int] = (2, 5),
        **config: Any,
    ) -> None:
        super().__init__(split, seed, size, **config)
        if len(steps) != 2:
            raise ValueError(f"steps is {list(steps)}: give the fewest and the most")
        self.steps = (int(steps[0]), int(steps[1]))

    def _problem(self, index: int) -> Problem:
        def propose(rng: random.Random) -> tuple[str, Problem]:
            problem = random_problem(rng, *self.steps)
            return problem.text, problem

        return self.draw(index, propose)[1]

    def _task(self, index: int, prompt: Sequence[Message], answer: Any, problem: Problem, **about: Any) -> Task:
        material = (problem.text, *map(str, about.values()))
        return Task(
            id=self.task_id(index),
            family=self.family,
            prompt=tuple(prompt),
            answer=answer,
            metadata={"key": "\n".join(material), "problem": problem.text, **about},
            seed=self.seed,
        )


class ProveTaskset(_RoleTaskset):
    """Derivations to be written and judged by their writer."""

    family = "prove"
    env_class = ProveEnvironment

    def task(self, index: int) -> Task:
        problem = self._problem(index)
        return self._task(index, PROMPTS.prove(problem.text), None, problem)


class RefineTaskset(_RoleTaskset):
    """The same with an earlier attempt that is not complete and rigorous, and an evaluation of it.

    ``noise``: of the evaluation's verdicts; it may be wrong, as a self-evaluation may.
    """

    family = "refine"
    env_class = ProveEnvironment

    def __init__(self, *args: Any, noise: float = 0.1, **config: Any) -> None:
        super().__init__(*args, **config)
        self.noise = noise

    def task(self, index: int) -> Task:
        problem, rng = self._problem(index), random.Random(f"refine {self.task_id(index)}")
        while True:
            solution = random_solution(problem, rng)
            if true_score(problem, solution) < 1.0:
                break
        evaluation = noisy_evaluation(problem, solution, self.noise, rng).text
        prompt = PROMPTS.refine(problem.text, solution, [evaluation])
        return self._task(index, prompt, None, problem, solution=solution, evaluation=evaluation)


class VerifyTaskset(_RoleTaskset):
    """Solutions to be judged: made here with injected errors and labelled by the program, or read from ``rows``.

    ``rows``: a JSONL file of {"problem", "solution", "label"}, say a generator's own proofs with automatic labels;
    ``rows_share``: the share of tasks that come from it.
    """

    family = "verify"
    env_class = VerifyEnvironment

    def __init__(self, *args: Any, rows: str | None = None, rows_share: float = 0.5, **config: Any) -> None:
        super().__init__(*args, **config)
        if not 0.0 <= rows_share <= 1.0:
            raise ValueError(f"rows_share is {rows_share}, must be between 0 and 1")
        if rows is not None and not Path(rows).is_file():
            raise ValueError(f"rows={rows}: no such file; give a JSONL file of problem, solution and label")
        self.rows, self.rows_share = rows, rows_share
        self._rows = [] if rows is None else [json.loads(line) for line in Path(rows).read_text().splitlines() if line]

    def task(self, index: int) -> Task:
        rng = random.Random(f"verify {self.task_id(index)}")
        if self._rows and rng.random() < self.rows_share:
            row = rng.choice(self._rows)
            problem, solution, label = parse_problem(row["problem"]), str(row["solution"]), float(row["label"])
            if problem is None or label not in SCORES:
                raise ValueError(f"rows={self.rows}: {row!r} is no derivation with a label of 0, 0.5 or 1")
        else:
            problem = self._problem(index)
            solution = random_solution(problem, rng)
            label = true_score(problem, solution)
        return self._task(index, PROMPTS.verify(problem.text, solution), label, problem, solution=solution)

    def fingerprint(self) -> str:
        return json.dumps([self.rows, self._rows]) if self._rows else ""


class AssessTaskset(_RoleTaskset):
    """Evaluations to be judged: right ones and careless ones, with the program's rating."""

    family = "assess"
    env_class = AssessEnvironment

    def task(self, index: int) -> Task:
        problem, rng = self._problem(index), random.Random(f"assess {self.task_id(index)}")
        solution = random_solution(problem, rng)
        evaluation = noisy_evaluation(problem, solution, rng.choice((0.0, NOISE, 2 * NOISE)), rng).text
        answer = rating(problem, solution, parse_evaluation(evaluation))
        prompt = PROMPTS.meta(problem.text, solution, evaluation)
        return self._task(index, prompt, answer, problem, solution=solution, evaluation=evaluation)


def _flipped(line: str) -> str:
    text, _, word = line.rpartition(" ")
    return f"{text} {UNFAIR if word == FAIR else FAIR}"


def _text(lines: Sequence[Line]) -> str:
    return "\n".join(line.text for line in lines)


def _written(text: str) -> Message:
    """Nothing is thought in private here: what counts is on paper."""
    return Message("assistant", text, reasoning="")
