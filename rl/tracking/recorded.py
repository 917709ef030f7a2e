"""Answers to tasks as `rl-compare` reads them: rollouts of runs and evaluations, and recorded answers of other models.

A recorded answer is one line of JSON, token counts as the provider's API reported them::

    {"model": "gemini-3-pro", "task_id": "t1", "prompt_tokens": 120, "output_tokens": 4852, "correct": true}

``cached_tokens`` (of the prompt, default 0), and instead of ``output_tokens``, or also, its parts ``thinking_tokens``,
``tool_tokens`` and ``answer_tokens``. ``correct`` is true, false, a score from 0 to 1, or null where nobody has judged.
Other keys are for the reader.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rl.types import OUTCOME, Usage

_PARTS = ("thinking_tokens", "tool_tokens", "answer_tokens")


@dataclass(frozen=True)
class Answer:
    """One attempt at one task. ``score`` 0 … 1, None: not judged. ``split``: whether thinking was counted apart;
    ``rollout``: whether it is one of ours."""

    task_id: str
    usage: Usage
    score: float | None
    split: bool = True
    rollout: bool = False


def read_answers(source: str) -> dict[str, list[Answer]]:
    """Answers by label: the model's name where rows have one, else the run's name or the path.

    Args:
        source: a run's directory (its ``eval_after``), a directory with ``trajectories.jsonl`` (rl-eval's), or a
            ``.jsonl`` file of either kind of row.
    Raises:
        ValueError: nothing to read there, or a row that is incomplete or contradicts itself (file and line are named).
    """
    path, label = _file(source)
    found: dict[str, list[Answer]] = {}
    for line, row in _rows(path):
        try:
            name, answer = _recorded(row) if "model" in row else (label, _rollout(row))
        except ValueError as error:
            raise ValueError(f"{path} line {line}: {error}") from error
        found.setdefault(name, []).append(answer)
    if not found:
        raise ValueError(f"sources: '{path}' has no answers")
    return found


def _file(source: str) -> tuple[Path, str]:
    path = Path(source)
    if path.is_file():
        return path, source
    for inside, label in (("trajectories/eval_after.jsonl", path.resolve().name), ("trajectories.jsonl", source)):
        if (path / inside).is_file():
            return path / inside, label
    raise ValueError(
        f"sources: '{source}' is no .jsonl file, no run with a last evaluation (trajectories/eval_after.jsonl) and no "
        "output of rl-eval (trajectories.jsonl)"
    )


def _rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{path} line {number} is not JSON: {error.msg}") from error
            if not isinstance(row, Mapping):
                raise ValueError(f"{path} line {number}: a row must be a JSON object, this is {line.strip()[:40]!r}")
            yield number, row


def _rollout(row: Mapping[str, Any]) -> Answer:
    """A row of ``trajectories/*.jsonl``. One without an outcome (the environment failed) is not judged."""
    if "task_id" not in row or "reward_parts" not in row:
        raise ValueError("neither a recorded answer (no 'model') nor a rollout (no 'task_id' and 'reward_parts')")
    if "usage" not in row:
        raise ValueError("this rollout has no token usage: an older version wrote it; evaluate again with rl-eval")
    return Answer(row["task_id"], Usage(**row["usage"]), row["reward_parts"].get(OUTCOME), rollout=True)


def _recorded(row: Mapping[str, Any]) -> tuple[str, Answer]:
    for key in ("task_id", "prompt_tokens", "correct"):
        if key not in row:
            raise ValueError(f"'{key}' is missing")
    prompt, cached = _count(row, "prompt_tokens"), _count(row, "cached_tokens", 0)
    if cached > prompt:
        raise ValueError(f"cached_tokens={cached}: at most prompt_tokens={prompt}, of which they are a part")
    split = any(key in row for key in _PARTS)
    thinking, tool, answer = (_count(row, key, 0) for key in _PARTS)
    output = _count(row, "output_tokens", thinking + tool + answer if split else None)
    if split and output != thinking + tool + answer:
        raise ValueError(
            f"output_tokens={output}, but its parts add up to {thinking + tool + answer} ({', '.join(_PARTS)})"
        )
    if not split:
        answer = output
    return str(row["model"]), Answer(
        str(row["task_id"]), Usage(1, prompt, cached, thinking, tool, answer), _score(row["correct"]), split
    )


def _count(row: Mapping[str, Any], key: str, default: int | None = None) -> int:
    value = row.get(key, default)
    if value is None:
        raise ValueError(f"'{key}' is missing")
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{key}={value!r}: must be a whole number of tokens")
    return value


def _score(correct: Any) -> float | None:
    if correct is None:
        return None
    if not isinstance(correct, (bool, int, float)) or not 0 <= correct <= 1:
        raise ValueError(f"correct={correct!r}: must be true, false, a number from 0 to 1, or null (not judged)")
    return float(correct)
