"""A task as a row of a data set, and back. Nested values are JSON text, so every family fits one schema.

row = row_of(task, source=0)     {"id": ..., "family": ..., "level": 2, "key": ..., "prompt": "[{...}]", ...}
task_of(row)                     the task as the environment will get it: tuples have become lists
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from envs.message_forms import message_of
from envs.taskset import task_key
from envs.types import Task

Row = dict[str, Any]

TEXT_COLUMNS = ("id", "family", "key", "prompt", "answer", "metadata")
NUMBER_COLUMNS = ("level", "seed", "source")  # source: position in the data set's list of families


def row_of(task: Task, source: int = 0) -> Row:
    """Raises TypeError when answer or metadata hold what JSON cannot, UnicodeError when a text is none."""
    row: Row = {
        "id": task.id,
        "family": task.family,
        "level": int(task.metadata.get("level", 1)),
        "key": task_key(task),
        "prompt": _json([message.to_json() for message in task.prompt]),
        "answer": _json(task.answer),
        "metadata": _json(dict(task.metadata)),
        "seed": task.seed,
        "source": source,
    }
    "".join(row[name] for name in TEXT_COLUMNS).encode()  # half a surrogate pair: better here than when it is written
    return row


def task_of(row: Mapping[str, Any]) -> Task:
    prompt = tuple(message_of(raw) for raw in json.loads(row["prompt"]))
    answer, metadata = json.loads(row["answer"]), json.loads(row["metadata"])
    return Task(row["id"], row["family"], prompt, answer, metadata, row["seed"])


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
