r"""The hard tier of the code interpreter: a stateful notebook as the only tool, problems that need it.

    user       orders.csv, customers.csv and products.csv are in the working directory. … How many euros …?
    assistant  python(code="import csv\nrows = list(csv.DictReader(open('orders.csv')))\nrows[0]")
    tool       {'order_id': '17', 'customer_id': '104', …}
    assistant  python(code="…")
    tool       4127.35
    assistant  The customers spent \boxed{4127.35} euros.

32 kinds of problem on three topics (data files, mathematics, puzzles) at four levels: ``notebook_problem.py`` says what
a kind is. A task is named by (kind, level, problem seed) in its metadata and rebuilt from these three, files included.
outcome = 1 when the final answer is right: a number exactly, or to the decimals that were asked for; words and lists
apart from case, quotes and brackets.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from fractions import Fraction
from functools import cached_property, lru_cache
from typing import Any

from envs.environment import Environment, ToolError, tool
from envs.final_answer import SUFFIX, clean, last_line, normalise, number
from envs.interpreter.notebook_kinds import KINDS, LEVELS, TOPICS, Problem, make_problem
from envs.sandbox import KERNEL_LIMITS, KernelSession
from envs.taskset import Split, Taskset
from envs.types import Episode, Message, Task, ToolCall

SYSTEM = (
    "You work in a Jupyter notebook. Run cells with python: variables, imports and files stay from one cell to the "
    "next; "
    f"a cell may take {KERNEL_LIMITS.wall_s:g} seconds. numpy, pandas and sympy are there. "
    "Explore, compute, check; then answer."
)
_PROBES = 24  # problems of the same kind and level whose most frequent answer a guesser would give
_BLIND = ("", "0", "1", "2", "3", "-1", "10", "100", "1/2", "yes", "no", "True", "False", "none", "42")


class NotebookEnvironment(Environment):
    """One problem, in a notebook of its own that starts at the first cell with the problem's files in place."""

    max_output_chars = 8000
    call_limit_s = KERNEL_LIMITS.wall_s + 10.0  # the interrupt and the last output come after it

    def __init__(self, task: Task, **config: Any) -> None:
        super().__init__(task, **config)
        self._session: KernelSession | None = None

    @cached_property
    def problem(self) -> Problem:
        """The problem again, from the names in the task's metadata."""
        about = self.task.metadata
        problem = make_problem(about["kind"], about["level"], about["problem_seed"])
        if problem.key() != about["key"]:
            raise ValueError(
                f"task {self.task.id}: {about['kind']} {about['level']} {about['problem_seed']} makes another "
                "problem now; "
                "the task is from another version of envs.interpreter: build the data set again"
            )
        return problem

    @tool
    def python(self, code: str) -> str:
        """Run a cell. The value of its last expression is shown, and what it prints."""
        if self._session is None:
            self._session = KernelSession(KERNEL_LIMITS, files=self.problem.files)
        result = self._session.run(code)
        if result.timed_out:
            raise TimeoutError(result.error)
        output = result.output.removesuffix("\n")
        if result.error:
            raise ToolError(f"{result.error}\nPrinted before it:\n{output}" if output else result.error)
        return output

    def score(self, episode: Episode) -> dict[str, float]:
        answer = episode.answer
        return {"outcome": float(answer is not None and is_right(last_line(answer), self.task))}

    def close(self) -> None:
        if self._session is not None:
            self._session.close()

    def oracle(self, history: Sequence[Message]) -> Message:
        """Runs the problem's program and answers what it printed: right only if the program is."""
        code = self.problem.program
        ran = any(call.arguments.get("code") == code for message in history for call in message.tool_calls)
        if not ran:
            return Message("assistant", tool_calls=(ToolCall("python", {"code": code}),))
        printed = [message.content for message in history if message.role == "tool"][-1]
        return Message("assistant", f"The result is \\boxed{{{printed.strip()}}}.")


class NotebookTaskset(Taskset):
    """Problems of ``envs.interpreter.notebook_problem``; the key is a hash of the question and the files.

    ``levels``: which of 1 (easiest) to 4. ``kinds``: weight by kind, default all alike. ``topics``: weight by topic
    (data, maths, puzzle), used when no kinds are given.
    """

    family = "notebook"
    env_class = NotebookEnvironment
    packages = ("ipykernel", "pandas", "numpy", "sympy")

    def __init__(
        self,
        split: Split = "train",
        seed: int = 0,
        size: int | None = None,
        levels: Sequence[int] = LEVELS,
        kinds: Mapping[str, float] | None = None,
        topics: Mapping[str, float] | None = None,
        **config: Any,
    ) -> None:
        super().__init__(split, seed, size, **config)
        self.levels = tuple(levels)
        if not self.levels or any(level not in LEVELS for level in self.levels):
            raise ValueError(f"levels is {list(levels)}: give some of {', '.join(map(str, LEVELS))}")
        known = KINDS
        if kinds is None:
            shares = dict.fromkeys(TOPICS.values(), 1.0) if topics is None else dict(topics)
            _check_weights("topics", shares, TOPICS.values())
            count = Counter(TOPICS.values())
            kinds = {name: shares.get(TOPICS[name], 0.0) / count[TOPICS[name]] for name in known}
        self.kinds = dict(sorted(kinds.items()))
        _check_weights("kinds", self.kinds, known)

    def task(self, index: int) -> Task:
        def propose(rng: random.Random) -> tuple[str, tuple[str, int, int, Problem]]:
            name = rng.choices(list(self.kinds), weights=list(self.kinds.values()))[0]
            level, seed = rng.choice(self.levels), rng.getrandbits(48)
            problem = make_problem(name, level, seed)
            return problem.key(), (name, level, seed, problem)

        key, (name, level, seed, problem) = self.draw(index, propose)
        where = f"In the working directory: {', '.join(problem.files)}.\n\n" if problem.files else ""
        return Task(
            id=self.task_id(index),
            family=self.family,
            prompt=(Message("system", SYSTEM), Message("user", f"{where}{problem.question}\n\n{SUFFIX}")),
            answer=problem.answer_text,
            metadata={
                "key": key,
                "kind": name,
                "topic": TOPICS[name],
                "level": level,
                "problem_seed": seed,
                "size": problem.size,
                "form": "list" if isinstance(problem.answer, list) else "number",
                "decimals": problem.decimals,
            },
            seed=self.seed,
        )

    def verify(self, task: Task) -> str | None:
        """Also rejects what can be guessed: by nobody's favourites, by the kind's most frequent answer, or by
        repeating a number of the question."""
        about = task.metadata
        if any(is_right(guess, task) for guess in (*_BLIND, usual_answer(about["kind"], about["level"]))):
            return "guessable"
        if about["form"] == "number":
            question = task.prompt[-1].content
            if any(is_right(word.strip(".,;:?()[]"), task) for word in set(question.replace("]", " ").split())):
                return "answer_in_question"
        return super().verify(task)


@lru_cache(maxsize=1024)
def usual_answer(kind: str, level: int) -> str:
    """The most frequent answer among problems of a kind and level (the first to come, when all differ)."""
    answers = [make_problem(kind, level, seed).answer_text for seed in range(_PROBES)]
    return Counter(answers).most_common(1)[0][0]


def is_right(answer: str, task: Task) -> bool:
    """Whether an answer is the task's. Anything that cannot be read is wrong."""
    if task.metadata["form"] == "list":
        return _items(answer) == _items(task.answer)
    given, right = number(answer), number(task.answer)
    if given is None or right is None:
        return False
    decimals: int | None = task.metadata["decimals"]
    if decimals is None:
        return given == right
    # half a unit of the last place that was asked for, and what is lost in a float's last digits
    allowed: Fraction = Fraction(501, 1000) / 10**decimals
    return abs(given - right) <= allowed


def _items(text: str) -> list[str]:
    return [normalise(item) for item in clean(text).strip("[](){} ").replace(" and ", ", ").split(",") if item.strip()]


def _check_weights(name: str, weights: Mapping[str, float], known: Any) -> None:
    unknown = [key for key in weights if key not in known]
    if unknown:
        raise ValueError(f"{name} has {unknown[0]!r}; known: {', '.join(sorted(set(known)))}")
    if min(weights.values(), default=0.0) < 0 or not sum(weights.values()) > 0:
        raise ValueError(f"{name} is {dict(weights)}: weights must be at least 0 and not all 0")
