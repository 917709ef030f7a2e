"""DatasetTaskset: a data set and a reward function, and that is the environment. One question, one answer.

    rl-train env=dataset env.path=questions.jsonl env.reward=my_module.my_reward

    def my_reward(answer: str, row: dict) -> float:          # or a dict with "outcome" and more; or async def
        return float(row["answer"] in answer)

``answer`` is the policy's final message, ``row`` the row of the data set. Instead of a path, ``reward`` may name a
ready verifier: exact (the default: the answer equals the answer column), numeric, math, choice or unit_tests
(``envs.answer_checks``). A reward function is the user's own code and runs in the environment's process.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import logging
import math
import re
from array import array
from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import cache, partial
from pathlib import Path
from typing import Any

from envs.answer_checks import LIMITS_S, VERIFIERS, Verifier
from envs.environment import Environment
from envs.epochs import EpochOrder
from envs.message_forms import checked_prompt, messages_of
from envs.row_source import BadRowError, open_rows
from envs.scores import scores_of
from envs.taskset import Split, Taskset, split_of
from envs.types import Episode, Message, Task

Reward = Verifier

_NAMED = 10  # rows that are skipped and said with what is wrong with them
_NEED_ANSWER = ("exact", "numeric", "math")
_NAME = re.compile(r"[\w.@+-]{1,64}")


class DatasetEnvironment(Environment):
    """One question without tools. ``reward``: a function, its import path or a verifier's name; None is exact."""

    def __init__(self, task: Task, reward: str | Reward | None = None, **config: Any) -> None:
        super().__init__(task, **config)
        self.reward: Reward = find_reward(reward or "exact")

    @classmethod
    def longest_score_s(cls, config: Mapping[str, Any]) -> float | None:
        """A verifier's own limit; of a reward function of yours nothing is known."""
        return LIMITS_S.get(str(config.get("reward")))

    def score(self, episode: Episode) -> Any:
        """The reward's scores; a coroutine when the reward is ``async def``."""
        return self.score_answer(episode.answer)

    def score_answer(self, answer: str | None) -> Any:
        """The reward's scores of ``answer``; None: there is none, which is worth 0."""
        if answer is None:
            return {"outcome": 0.0}
        row = deepcopy(self.task.metadata["row"]) | {"answer": self.task.answer}
        result = self.reward(answer, row)
        name = f"reward {getattr(self.reward, '__name__', repr(self.reward))}"
        return self._awaited(result, name) if inspect.isawaitable(result) else scores_of(result, name)

    async def _awaited(self, result: Any, name: str) -> dict[str, float]:
        return scores_of(await result, name)

    def oracle(self, history: Sequence[Message]) -> Message:
        if self.task.answer is None:
            raise NotImplementedError("the data set has no answer column: there is no oracle")
        return Message("assistant", str(self.task.answer), reasoning="")  # a data set has none


class DatasetTaskset(Taskset):
    """The rows of ``path``, a file, a folder or a data set of the hub (``envs.row_source``).

    ``prompt_column`` holds a text or a list of chat messages; ``system`` is a system message before it.
    ``answer_column``: the right answer, or null when the reward needs none. ``name`` is the family's name in
    metrics. Splits: the data set's own (train and test), else ``split_column`` (its values are ``train`` and
    ``heldout``), else by a hash of the prompt, one row in five held out. A row's ``level`` is a number, or a text whose
    first number counts ("Level 5"), else 1. ``subset`` and ``revision`` are for the hub.

    Every row is looked at when the set opens. ``on_bad_row``: ``refuse`` it with its place, or ``skip`` it; what is
    skipped is logged, and counted in ``metrics()``. ``shuffle``: training takes the rows in another order in every
    epoch and for every seed; held-out rows stay in the order of the file. ``size``: the first so many rows.
    """

    family = "dataset"
    env_class: type[Environment] = DatasetEnvironment
    of_no_account = Taskset.of_no_account | {"name", "shuffle"}

    def __init__(
        self,
        split: Split = "train",
        seed: int = 0,
        size: int | None = None,
        path: str | Path = "",
        prompt_column: str = "prompt",
        answer_column: str | None = "answer",
        reward: str | Reward | None = None,
        split_column: str | None = None,
        system: str | None = None,
        name: str = "dataset",
        subset: str | None = None,
        revision: str | None = None,
        on_bad_row: str = "refuse",
        shuffle: bool = True,
        **config: Any,
    ) -> None:
        super().__init__(split, seed, size, reward=reward, **config)
        if not _NAME.fullmatch(name):
            raise ValueError(f"name={name!r}: must be letters, digits and . _ -, since files and metrics are named so")
        if on_bad_row not in ("refuse", "skip"):
            raise ValueError(f"on_bad_row={on_bad_row!r}: must be refuse or skip")
        self.family, self.system = name, system
        self.prompt_column, self.answer_column, self.split_column = prompt_column, answer_column, split_column
        self._reward_file = file_of("reward", reward or "exact", find_reward(reward or "exact"))
        self.source = open_rows(path, split, subset, revision)
        self.skipped = 0
        self._rows = self._look(on_bad_row)
        self.size = min(len(self._rows), size or len(self._rows))
        shuffles = shuffle and split == "train"
        self._order = EpochOrder(f"{name}/{split}/{seed}", self.size) if shuffles else None

    def task(self, index: int) -> Task:
        number = self._rows[index]
        row = self.source.row(number)
        messages = self._prompt(row)
        metadata = {"key": _key(messages), "level": level_of(row.get("level")), "row": row}
        if self.system is not None:
            messages = (Message("system", self.system), *messages)
        answer = None if self.answer_column is None else row[self.answer_column]
        return Task(f"{self.family}/{self.split}/{number}", self.family, messages, answer, metadata, self.seed)

    def index_at(self, turn: int) -> int:
        return turn % len(self) if self._order is None else self._order.index(turn)

    def metrics(self) -> dict[str, float]:
        return {"data/skipped_rows": float(self.skipped)} if self.skipped else {}

    def fingerprint(self) -> str:
        """Over the rows and the file of the reward, as they were when the set was opened."""
        return hashlib.sha256(f"{self.source.digest} {self._reward_file}".encode()).hexdigest()

    def inputs(self) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {
            self.source.name: {"sha256": self.source.digest, "rows": len(self.source)},
        }
        reward = self.config["reward"]
        if reward is not None and reward not in VERIFIERS and self._reward_file is not None:
            name, digest = self._reward_file
            found[name] = {"sha256": digest}
        return found

    def _look(self, on_bad_row: str) -> array[int]:
        """The numbers of the split's rows. Raises ValueError for rows that cannot be tasks, unless they are skipped."""
        rows, total = array("q"), 0
        bad: list[str] = []
        for place, row in self.source.scan():
            total += 1
            try:
                if isinstance(row, BadRowError):
                    raise row
                if self._split_of_row(row) == self.split:
                    rows.append(total - 1)
            except BadRowError as error:
                bad.append(f"{place}: {error}" if len(bad) < _NAMED else place)
        source = self.source
        if not total:
            raise ValueError(f"{source.name} is empty: it has no row")
        for column in filter(None, (self.prompt_column, self.answer_column, self.split_column)):
            if source.columns and column not in source.columns:
                raise ValueError(f"{column}: no such column in {source.name}; it has {', '.join(source.columns)}")
        if bad and on_bad_row == "refuse":
            more = f" (and {len(bad) - 1} more of {total} rows)" if len(bad) > 1 else ""
            raise ValueError(f"{source.name}, {bad[0]}{more}; put it right, or leave such rows out: on_bad_row=skip")
        if bad:
            more = f"; and {len(bad) - _NAMED} more" if len(bad) > _NAMED else ""
            _say(f"{source.name}: {len(bad)} of {total} rows are skipped: {'; '.join(bad[:_NAMED])}{more}")
        self.skipped = len(bad)
        if not rows:
            raise ValueError(f"split={self.split}: {source.name} has no row in it ({total} rows in all)")
        return rows

    def _split_of_row(self, row: Mapping[str, Any]) -> str:
        """The split of a row that can be a task. Raises BadRowError for one that cannot."""
        messages = self._prompt(row)
        reward = self.config["reward"] or "exact"
        if self.answer_column is not None and row.get(self.answer_column) is None and reward in _NEED_ANSWER:
            raise BadRowError(f"column {self.answer_column}: is null, and the reward {reward} needs a right answer")
        if self.source.own_split:
            return self.split
        if self.split_column is None:
            return split_of(_key(messages))
        value = row.get(self.split_column)
        if value not in ("train", "heldout"):
            raise BadRowError(f"column {self.split_column}: is {value!r:.80}, must be train or heldout")
        return str(value)

    def _prompt(self, row: Mapping[str, Any]) -> tuple[Message, ...]:
        prompt = row.get(self.prompt_column)
        try:
            if isinstance(prompt, str):
                if not prompt.strip():
                    raise ValueError("is empty")
                return (Message("user", prompt),)
            if not isinstance(prompt, list):
                shown = "null" if prompt is None else repr(prompt)[:80]
                raise ValueError(f"is {shown}, wanted a text or a list of messages")
            return checked_prompt(messages_of(prompt, absent_nulls=self.source.absent_nulls))
        except ValueError as error:
            raise BadRowError(f"column {self.prompt_column}: {error}") from error


def level_of(value: Any) -> int:
    """How hard a row is: a number, or the first number in a text ("Level 5" is 5); 1 for everything else."""
    if isinstance(value, str):
        found = re.search(r"\d{1,9}", value)
        return int(found[0]) if found else 1
    known = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return int(value) or 1 if known else 1


def find_reward(reward: str | Reward) -> Reward:
    """A function, a ready verifier by its name, or the function at an import path. Raises ValueError that says what is
    wrong."""
    if not isinstance(reward, str):
        return reward
    if reward in VERIFIERS:
        return VERIFIERS[reward]
    function: Reward = find_function("reward", reward, f"{', '.join(VERIFIERS)} or package.module.function")
    return function


def find_function(setting: str, path: str, known: str) -> Any:
    """The function at the import path ``path``. Raises ValueError that names the setting, and what is ``known``."""
    module_name, _, name = path.replace(":", ".").rpartition(".")
    try:
        found = getattr(importlib.import_module(module_name), name, None) if module_name else None
    except ModuleNotFoundError as error:
        raise ValueError(f"{setting}={path}: {error}; run from its folder, or install it") from error
    if not callable(found):
        raise ValueError(f"{setting}={path}: no such function; give {known}")
    return found


def file_of(setting: str, given: Any, function: Any) -> tuple[str, str] | None:
    """(what it is called, SHA-256) of the file that ``function`` is defined in, which the setting gives by name or
    itself; None when it has none."""
    while isinstance(function, partial):
        function = function.func
    function = function if inspect.isroutine(function) or inspect.isclass(function) else type(function)
    try:
        file = Path(inspect.getsourcefile(inspect.unwrap(function)) or "")
    except TypeError:  # built in
        return None
    name = given if isinstance(given, str) else getattr(function, "__qualname__", str(function))
    return (
        (f"{file.name} of {setting} {name}", hashlib.sha256(file.read_bytes()).hexdigest()) if file.is_file() else None
    )


def _key(messages: Sequence[Message]) -> str:
    """What makes two prompts the same, whatever form they were written in."""
    if len(messages) == 1 and messages[0].role == "user":
        text = messages[0].content
    else:
        text = json.dumps([message.to_json() for message in messages], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@cache
def _say(text: str) -> None:
    """Once: a data set is opened for every split."""
    logging.getLogger(__name__).warning("%s", text)
