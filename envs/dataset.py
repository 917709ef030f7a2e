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
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from envs.answer_checks import VERIFIERS, Verifier
from envs.environment import Environment
from envs.factory.rows import message_of
from envs.taskset import Split, Taskset, split_of
from envs.types import Episode, Message, Task

Reward = Verifier

# What a data set's own held-out split may be called, when it is a folder with several
HELDOUT_NAMES = ("heldout", "test", "validation")
READERS = {".parquet": "parquet", ".json": "json", ".jsonl": "json", ".csv": "csv"}


class DatasetEnvironment(Environment):
    """One question without tools. ``reward``: a function, its import path or a verifier's name; None is exact."""

    def __init__(self, task: Task, reward: str | Reward | None = None, **config: Any) -> None:
        super().__init__(task, **config)
        self.reward: Reward = find_reward(reward or "exact")

    def score(self, episode: Episode) -> Any:
        """The reward's scores; a coroutine when the reward is ``async def``."""
        if episode.answer is None:
            return {"outcome": 0.0}
        row = dict(self.task.metadata["row"]) | {"answer": self.task.answer}
        result = self.reward(episode.answer, row)
        return self._awaited(result) if inspect.isawaitable(result) else self._scores(result)

    async def _awaited(self, result: Any) -> dict[str, float]:
        return self._scores(await result)

    def _scores(self, result: Any) -> dict[str, float]:
        scores = dict(result) if isinstance(result, Mapping) else {"outcome": result}
        name = getattr(self.reward, "__name__", repr(self.reward))
        if "outcome" not in scores:
            raise ValueError(f'reward {name} gave {scores}: "outcome" is missing')
        for key, value in scores.items():
            if not isinstance(value, int | float) or not math.isfinite(value):
                raise ValueError(f"reward {name} gave {key}={value!r}: must be a finite number")
        if not 0.0 <= scores["outcome"] <= 1.0:
            raise ValueError(f"reward {name} gave outcome={scores['outcome']}: must be between 0 and 1")
        return {key: float(value) for key, value in scores.items()}

    def oracle(self, history: Sequence[Message]) -> Message:
        if self.task.answer is None:
            raise NotImplementedError("the data set has no answer column: there is no oracle")
        return Message("assistant", str(self.task.answer))


class DatasetTaskset(Taskset):
    """The rows of ``path``: a .parquet, .json, .jsonl or .csv file, or a folder of ``datasets.save_to_disk``.

    ``prompt_column`` holds a text or a list of chat messages; ``system`` is a system message before it.
    ``answer_column``: the right answer, or null when the reward needs none. ``name`` is the family's name in
    metrics. Splits: the data set's own (a folder with train and test), else ``split_column`` (its values are
    ``train`` and ``heldout``), else by a hash of the prompt, one row in five held out.
    """

    family = "dataset"
    env_class = DatasetEnvironment

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
        **config: Any,
    ) -> None:
        super().__init__(split, seed, size, reward=reward, **config)
        self.family = name
        self.path, self.system = Path(path).absolute(), system
        self.prompt_column, self.answer_column, self.split_column = prompt_column, answer_column, split_column
        find_reward(reward or "exact")
        if not str(path) or not self.path.exists():
            raise ValueError(f"path={str(path)!r}: there is no such file or folder; give a data set, env.path=...")
        self._opened: Any = None
        table, own_splits = self._open()
        for column in filter(None, (prompt_column, answer_column, split_column)):
            if column not in table.column_names:
                raise ValueError(f"{column}: no such column in {path}; it has {', '.join(table.column_names)}")
        self._rows = list(range(len(table))) if own_splits else self._rows_of_split(table)
        if not self._rows:
            raise ValueError(f"split={split}: {path} has no row in it ({len(table)} rows in all)")
        self.size = min(len(self._rows), size or len(self._rows))

    def task(self, index: int) -> Task:
        number = self._rows[index]
        row = dict(self._open()[0][number])
        answer = None if self.answer_column is None else row[self.answer_column]
        prompt = row[self.prompt_column]
        messages = (Message("user", prompt),) if isinstance(prompt, str) else tuple(message_of(m) for m in prompt)
        if self.system is not None:
            messages = (Message("system", self.system), *messages)
        try:
            json.dumps(row)
        except TypeError as error:
            raise ValueError(f"row {number} of {self.path}: {error}; a task holds JSON values only") from error
        metadata = {"key": _key(prompt), "level": int(row.get("level") or 1), "row": row}
        return Task(f"{self.family}/{self.split}/{number}", self.family, messages, answer, metadata, self.seed)

    def fingerprint(self) -> str:
        files = sorted(p for p in self.path.rglob("*") if p.is_file()) if self.path.is_dir() else [self.path]
        digest = hashlib.sha256()
        for file in files:
            digest.update(file.read_bytes())
        digest.update(Path(inspect.getsourcefile(find_reward(self.config["reward"] or "exact")) or "").read_bytes())
        return digest.hexdigest()

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_opened": None}  # opened again where it is unpickled

    def _open(self) -> tuple[Any, bool]:
        if self._opened is None:
            self._opened = _open(self.path, self.split)
        opened: tuple[Any, bool] = self._opened
        return opened

    def _rows_of_split(self, table: Any) -> list[int]:
        if self.split_column is None:
            prompts = table[self.prompt_column]
            return [i for i, prompt in enumerate(prompts) if split_of(_key(prompt)) == self.split]
        values = list(table[self.split_column])
        if unknown := set(values) - {"train", "heldout"}:
            raise ValueError(f"{self.split_column} holds {min(map(repr, unknown))}: must be train or heldout")
        return [i for i, value in enumerate(values) if value == self.split]


def find_reward(reward: str | Reward) -> Reward:
    """A function, a ready verifier by its name, or the function at an import path. Raises ValueError that says what is
    wrong."""
    if not isinstance(reward, str):
        return reward
    if reward in VERIFIERS:
        return VERIFIERS[reward]
    module_name, _, name = reward.replace(":", ".").rpartition(".")
    try:
        found = getattr(importlib.import_module(module_name), name, None) if module_name else None
    except ModuleNotFoundError as error:
        raise ValueError(f"reward={reward}: {error}; run from its folder, or install it") from error
    if not callable(found):
        raise ValueError(f"reward={reward}: no such function; give {', '.join(VERIFIERS)} or package.module.function")
    function: Reward = found
    return function


def _key(prompt: Any) -> str:
    text = prompt if isinstance(prompt, str) else json.dumps(prompt, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _open(path: Path, split: Split) -> tuple[Any, bool]:
    """The rows as a ``datasets.Dataset``, and whether they are those of the split alone already."""
    import datasets

    if path.is_file():
        if path.suffix not in READERS:
            raise ValueError(f"path={path}: cannot read {path.suffix or 'it'}; use {', '.join(READERS)} or a folder")
        datasets.disable_progress_bars()
        return datasets.load_dataset(READERS[path.suffix], data_files=str(path), split="train"), False
    loaded = datasets.load_from_disk(str(path))
    if not isinstance(loaded, dict):
        return loaded, False
    names = [name for name in (("train",) if split == "train" else HELDOUT_NAMES) if name in loaded]
    if not names:
        if list(loaded) == ["train"]:
            return loaded["train"], False
        raise ValueError(f"split={split}: {path} has {', '.join(loaded)}; wanted one of {', '.join(HELDOUT_NAMES)}")
    return loaded[names[0]], len(loaded) > 1 or split != "train"
