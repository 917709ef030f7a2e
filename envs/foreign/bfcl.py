"""BFCL, the Berkeley Function Calling Leaderboard, from the user's own copy of the package bfcl-eval (Apache-2.0).

    pip install --no-deps --target bfcl bfcl-eval==2026.3.23
    rl-train env=bfcl env.package=bfcl 'env.categories=[simple_python, parallel, multi_turn_base]'

    user       Play songs from Taylor Swift and Maroon 5, 20 and 15 minutes long.
    assistant  spotify_play(artist="Taylor Swift", duration=20)  spotify_play(artist="Maroon 5", duration=15)

Single-turn rows end with the first message: its calls are compared with the possible answers (``bfcl_match``), and of
``irrelevance`` rows, where no function fits, that there is none. In multi-turn rows calls change simulated systems,
which run in the sandbox, and an answer without a call brings the next request; every turn must leave the systems as
the right calls do (``bfcl_dialogue``). A dot in a function's name is an underscore here. Rows whose own answer is not
right by these rules are refused.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from envs.bridges.schemas import check_call, encodable
from envs.environment import Environment
from envs.foreign.bfcl_dialogue import LIMITS, calls_of, replay
from envs.foreign.bfcl_match import Call, call_of, tool_schema, wanted
from envs.foreign.bfcl_package import (
    IRRELEVANCE,
    MULTI,
    SINGLE,
    check_categories,
    digest,
    functions_of,
    package_folder,
    rows,
)
from envs.foreign.examined import RefusedError, Verdicts, check_numbers, remembered
from envs.foreign.foreign_taskset import ForeignTaskset
from envs.taskset import Split
from envs.tools import Tool
from envs.types import Episode, Message, StepResult, Task, ToolCall

SYSTEM = "Do what the user asks with the functions that are there. Where no function fits, say so and call none."
DEFAULT = SINGLE[:4]
_MORE = "There are more functions now:\n{functions}\nWhat about now?"


class BfclEnvironment(Environment):
    """A single-turn row: one message decides."""

    max_output_chars = 8000
    call_limit_s = score_limit_s = LIMITS.wall_s

    def __init__(self, task: Task, row: Mapping[str, Any], folder: Path, **config: Any) -> None:
        super().__init__(task, **config)
        self.row, self.folder = row, folder
        self.names: dict[str, str] = {}
        hidden = {name for names in row.get("missed_function", {}).values() for name in names}
        self.add_tools([function for function in row["function"] if function["name"] not in hidden])
        self.calls: list[Call] = []
        self.called = False

    def add_tools(self, functions: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Make functions callable; their schemas."""
        schemas = []
        for function in functions:
            name = str(function["name"]).replace(".", "_")
            self.names[name] = function["name"]
            self.tools[name] = Tool(name, "", tool_schema(function, name))
            schemas.append(self.tools[name].schema)
        return schemas

    def step(self, action: Message) -> StepResult:
        if action.parse_error is not None:
            return super().step(action)
        counts: Counter[str] = Counter()
        for call in action.tool_calls:
            self.called = True
            name = self.names.get(call.name)
            if name is None:
                counts["unknown_tool"] += 1
            elif check_call(self.tools[call.name].schema, call.arguments) is not None:
                counts["bad_arguments"] += 1
            self.calls.append((name or call.name, call.arguments))
        return StepResult(terminated=True, info={"counts": dict(counts)})

    def score(self, episode: Episode) -> dict[str, float]:
        if self.row["answer"] is None:
            return {"outcome": float(episode.ended and not self.called)}
        return {"outcome": float(wanted(self.row["function"], self.calls, self.row["answer"]))}

    def oracle(self, history: Sequence[Message]) -> Message:
        if self.row["answer"] is None:
            return Message("assistant", "No function here can do that.", reasoning="None of the functions fits.")
        return self.calling([call_of(answer) for answer in self.row["answer"]], "These are the calls.")

    def calling(self, calls: Sequence[Call], reasoning: str) -> Message:
        """A message with calls."""
        made = tuple(ToolCall(name.replace(".", "_"), dict(arguments)) for name, arguments in calls)
        return Message("assistant", reasoning=reasoning, tool_calls=made)


class BfclDialogue(BfclEnvironment):
    """A multi-turn row: calls change the systems until every request is dealt with."""

    def __init__(self, task: Task, row: Mapping[str, Any], folder: Path, **config: Any) -> None:
        super().__init__(task, row, folder, **config)
        self.turns: list[list[Call]] = [[]]
        self.over = False

    def step(self, action: Message) -> StepResult:
        if action.parse_error is not None:
            return Environment.step(self, action)
        if not action.tool_calls:
            return self._next()
        counts: Counter[str] = Counter()
        told: list[str | None] = []
        fresh: list[Call] = []
        for call in action.tool_calls:
            known = self.tools.get(call.name)
            if known is None:
                counts["unknown_tool"] += 1
                told.append(f'Error: there is no tool "{call.name}". Tools: {", ".join(self.tools)}.')
            elif problem := check_call(known.schema, call.arguments):
                counts["bad_arguments"] += 1
                told.append(f"Error: {problem}")
            else:
                told.append(None)
                fresh.append((self.names[call.name], encodable(dict(call.arguments))))
        if fresh:
            here = self.turns[-1]
            played = replay(self.folder, self.row, [*self.turns[:-1], [*here, *fresh]])
            if played.late:
                counts["tool_timeout"] += len(fresh)
                results = [f"Error: {played.wrong}; they were not made." for _ in fresh]
            else:
                here += fresh
                results = [self._cap(text, counts) for text in played.results[-1][-len(fresh) :]]
            answers = iter(results)
            told = [text if text is not None else next(answers) for text in told]
        messages = tuple(Message("tool", text or "(no output)") for text in told)
        return StepResult(messages, info={"counts": dict(counts)})

    def _next(self) -> StepResult:
        """The next request of the user, or the end."""
        if len(self.turns) == len(self.row["question"]):
            self.over = True
            return StepResult(terminated=True, info={"counts": {}})
        number = len(self.turns)
        self.turns.append([])
        messages = [Message(turn["role"], turn["content"]) for turn in self.row["question"][number]]
        if added := self.row.get("missed_function", {}).get(str(number)):
            schemas = self.add_tools([f for f in self.row["function"] if f["name"] in added])
            text = _MORE.format(functions="\n".join(json.dumps(s, ensure_ascii=False) for s in schemas))
            messages.append(Message("user", text))
        return StepResult(tuple(messages), info={"counts": {}})

    def score(self, episode: Episode) -> dict[str, float]:
        if not self.over or not any(self.turns):
            return {"outcome": 0.0}
        return {"outcome": float(replay(self.folder, self.row, self.turns, self.row["answer"]).wrong is None)}

    def oracle(self, history: Sequence[Message]) -> Message:
        """The right calls of each turn in one message, then a word."""
        done = [message for message in history if message.role == "assistant"]
        plan: list[Message] = []
        functions = {function["name"]: function for function in self.row["function"]}
        for texts in self.row["answer"]:
            if calls := calls_of(texts, functions):
                plan.append(self.calling(calls, "These are the calls."))
            plan.append(Message("assistant", "Done." if calls else "I cannot do that yet.", reasoning=""))
        return plan[min(len(done), len(plan) - 1)]


class BfclTaskset(ForeignTaskset):
    """See the module. ``package``: the folder that ``bfcl_eval`` lies in, or null where it is installed.
    ``categories``: of ``bfcl_package.CATEGORIES``. ``workers``: multi-turn rows examined at once."""

    family = "bfcl"
    env_class = BfclEnvironment
    licence = "Apache-2.0 (bfcl-eval)"
    of_no_account = ForeignTaskset.of_no_account | {"package", "workers"}

    def __init__(
        self,
        split: Split = "train",
        seed: int = 0,
        size: int | None = None,
        package: str | Path | None = None,
        categories: Sequence[str] = DEFAULT,
        workers: int = 1,
        **config: Any,
    ) -> None:
        self.categories = check_categories(categories)
        check_numbers(("workers", workers, 1, 64))
        if set(self.categories) & set(MULTI):
            self.max_turns = 40
        super().__init__(split, seed, size, **config)
        self.folder, self.workers = package_folder(package), int(workers)
        self.source = "bfcl-eval"
        self._digest = digest(self.folder, self.categories)
        found = _rows(self.folder, self.categories, self._digest)
        names = [row["id"] for row in found]
        self.choose(names, [_key(row) for row in found], self._examine, size)

    def task(self, index: int) -> Task:
        row = _rows(self.folder, self.categories, self._digest)[self.chosen[index]]
        prompt = tuple(Message(turn["role"], turn["content"]) for turn in row["question"][0])
        if prompt[0].role != "system":
            prompt = (Message("system", SYSTEM), *prompt)
        metadata = {"key": _key(row), "category": row["category"], "row": self.chosen[index], "id": row["id"]}
        return Task(f"{self.family}/{self.split}/{row['id']}", self.family, prompt, None, metadata, self.seed)

    def environment(self, task: Task) -> BfclEnvironment:
        row = _rows(self.folder, self.categories, self._digest)[task.metadata["row"]]
        if row["id"] != task.metadata["id"]:
            raise ValueError(f"task {task.id}: row {task.metadata['row']} of {self.source} is {row['id']} now")
        made = BfclDialogue if row["category"] in MULTI else BfclEnvironment
        return made(task, row, self.folder, **self.config)

    def inputs(self) -> dict[str, dict[str, Any]]:
        rows_ = len(_rows(self.folder, self.categories, self._digest))
        return {f"bfcl-eval ({', '.join(self.categories)})": {"sha256": self._digest, "rows": rows_}}

    def _examine(self, number: int) -> str | None:
        row = _rows(self.folder, self.categories, self._digest)[number]
        try:
            names = [str(function["name"]).replace(".", "_") for function in row["function"]]
            if len(set(names)) != len(names):
                raise RefusedError("two of its functions have the same name")
            for function, name in zip(row["function"], names, strict=True):
                tool_schema(function, name)
            if not row["question"] or not row["question"][0] or row["question"][0][-1]["role"] != "user":
                raise RefusedError("its first turn does not end with the user")
            if row["category"] in IRRELEVANCE:
                return None
            if not row["answer"]:
                raise RefusedError("the package has no answer for it")
            if row["category"] in MULTI:
                about = [self._digest, row["id"]]
                remembered(self.family, about, replay, partial(_examined, self.folder, row))
            elif not wanted(row["function"], [call_of(answer) for answer in row["answer"]], row["answer"]):
                raise RefusedError("its own answer is not right by the rules of the leaderboard")
        except RefusedError as error:
            return str(error)
        return None


def _examined(folder: Path, row: Mapping[str, Any]) -> Verdicts:
    functions = {function["name"]: function for function in row["function"]}
    if len(row["answer"]) != len(row["question"]) or not any(row["answer"]):
        raise RefusedError(f"it has {len(row['question'])} requests and right calls for {len(row['answer'])}")
    turns = [calls_of(texts, functions) for texts in row["answer"]]
    for name, arguments in (call for calls in turns for call in calls):
        if problem := check_call(tool_schema(functions[name], name), arguments):
            raise RefusedError(f"its right call does not fit the function: {problem}")
    if (wrong := replay(folder, row, turns, row["answer"]).wrong) is not None:
        raise RefusedError(f"its own calls are not right: {wrong}")
    return Verdicts((), (), frozenset())


@lru_cache(maxsize=4)
def _rows(folder: Path, categories: tuple[str, ...], content: str) -> tuple[dict[str, Any], ...]:
    """The rows of all categories; ``content`` is their digest, for the cache alone."""
    found = []
    for category in categories:
        for row in rows(folder, category):
            row["category"] = category
            if category in MULTI:
                row["function"] = functions_of(folder, row)
            found.append(row)
    return tuple(found)


def _key(row: Mapping[str, Any]) -> str:
    """The same request with the same functions is one task, whatever category it is of."""
    about = [row["question"], row["function"], row.get("initial_config"), row["answer"]]
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:32]
