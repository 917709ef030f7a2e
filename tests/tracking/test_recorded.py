"""Rows of every kind, and what is wrong with a row is said with file and line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rl.tracking.recorded import Answer, read_answers
from rl.tracking.rundir import RunDir
from rl.types import Usage


def write(path: Path, *rows: Any) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def recorded(**changed: Any) -> dict[str, Any]:
    row = {"model": "m", "task_id": "t1", "prompt_tokens": 10, "output_tokens": 5, "correct": True} | changed
    return {k: v for k, v in row.items() if v != "left out"}


def test_recorded_answers(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.jsonl",
        recorded(cached_tokens=4),
        recorded(model="n", output_tokens="left out", thinking_tokens=3, answer_tokens=2, correct=0.5),
        recorded(task_id="t2", thinking_tokens=4, tool_tokens=1, correct=None),
    )
    found = read_answers(path)
    assert found["m"] == [
        Answer("t1", Usage(1, 10, 4, 0, 0, 5), 1.0, split=False),
        Answer("t2", Usage(1, 10, 0, 4, 1, 0), None, split=True),
    ]
    assert found["n"] == [Answer("t1", Usage(1, 10, 0, 3, 0, 2), 0.5, split=True)]


def test_runs_and_evaluations(tmp_path: Path, make) -> None:
    run = RunDir(tmp_path / "demo")
    good = make("a", outcome=1.0)
    good.usage = Usage(1, 9, 3, 2, 0, 1)
    run.log_trajectories("eval_after", [good, make("b", outcome=None, failure="env_error")])
    scored, failed = read_answers(str(run.path))["demo"]
    assert scored == Answer("search/0", good.usage, 1.0, rollout=True)
    assert failed.score is None
    stored = run.trajectories / "eval_after.jsonl"
    (tmp_path / "trajectories.jsonl").write_text(stored.read_text())
    assert list(read_answers(str(tmp_path))) == [str(tmp_path)]
    assert list(read_answers(str(stored))) == [str(stored)]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (recorded(prompt_tokens="left out"), "'prompt_tokens' is missing"),
        (recorded(output_tokens="left out"), "'output_tokens' is missing"),
        (recorded(correct="left out"), "'correct' is missing"),
        (recorded(correct="yes"), "correct='yes': must be true, false"),
        (recorded(correct=2), "correct=2: must be"),
        (recorded(cached_tokens=11), "cached_tokens=11: at most prompt_tokens=10"),
        (recorded(output_tokens=-1), "output_tokens=-1: must be a whole number"),
        (recorded(output_tokens=1.5), "output_tokens=1.5: must be a whole number"),
        (recorded(thinking_tokens=4), "output_tokens=5, but its parts add up to 4"),
        ({"task_id": "t"}, "neither a recorded answer"),
        ({"task_id": "t", "reward_parts": {}}, "no token usage: an older version wrote it"),
        ([1], "a row must be a JSON object"),
    ],
)
def test_a_wrong_row_is_named(tmp_path: Path, row: Any, said: str) -> None:
    with pytest.raises(ValueError, match=r"a\.jsonl line 2: ") as raised:
        read_answers(write(tmp_path / "a.jsonl", recorded(), row))
    assert said in str(raised.value)


def test_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"sources: 'typo' is no \.jsonl file, no run with a last evaluation"):
        read_answers("typo")
    with pytest.raises(ValueError, match="has no answers"):
        read_answers(write(tmp_path / "empty.jsonl"))
    (tmp_path / "torn.jsonl").write_text('{"model": ')
    with pytest.raises(ValueError, match=r"torn\.jsonl line 1 is not JSON"):
        read_answers(str(tmp_path / "torn.jsonl"))
