"""Rows: the tasks of a bridge whose package brings tools and no tasks of its own.

A row is a JSON object, in a list or as a line of a ``.jsonl`` file::

    {"prompt": "How many pears are in stock?", "answer": "3",
     "solution": [{"name": "count", "arguments": {"item": "pear"}}]}

``prompt`` is required. ``answer`` is what the default scoring compares with; ``solution`` are the calls that the
oracle makes before it answers. ``key`` (default: the prompt) puts the row into train or heldout, unless it says
``"split"`` itself; ``level`` (default 1) is how hard it is; the rest stays in the task's metadata.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from envs.taskset import Split, split_of

KNOWN_SPLITS = ("train", "heldout")


def rows_of(data: str | Sequence[Mapping[str, Any]], split: Split) -> list[dict[str, Any]]:
    """The rows of one split, in the order of ``data``; each has ``prompt``, ``key`` and ``level``.

    Raises ValueError that names the row and the field, also when the split has no row at all.
    """
    rows = _read(Path(data)) if isinstance(data, str) else [dict(row) for row in data]
    kept, seen = [], set()
    for number, row in enumerate(rows):
        prompt = row.get("prompt")
        if not isinstance(prompt, str) or not prompt:
            raise ValueError(f"data: row {number} has prompt={prompt!r}, wanted a text that is not empty")
        key = str(row.get("key", prompt))
        if key in seen:
            raise ValueError(f"data: row {number} has the key {key!r} of an earlier row; give it another 'key'")
        seen.add(key)
        where = row.get("split", split_of(key))
        if where not in KNOWN_SPLITS:
            raise ValueError(f"data: row {number} has split={where!r}, wanted one of {', '.join(KNOWN_SPLITS)}")
        if where == split:
            kept.append({**row, "key": key, "level": int(row.get("level", 1))})
    if not kept:
        raise ValueError(f"data: none of {len(rows)} rows is in split {split!r}; add rows, or say 'split' in some")
    return kept


def _read(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        raise ValueError(f"data={str(path)!r}: no such file; give rows, or a .jsonl file of them")
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"data={str(path)!r}: line {number} is no JSON: {error}") from error
        if not isinstance(row, dict):
            raise ValueError(f"data={str(path)!r}: line {number} is {type(row).__name__}, wanted an object")
        rows.append(row)
    return rows
