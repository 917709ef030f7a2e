"""A handful of kills, as the benchmark has fifty: nothing is lost, nothing trained twice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import chaos
from benchmarks.chaos import Books, Chaos, Kill, digest, table

pytestmark = pytest.mark.run


def test_a_run_that_is_killed_again_and_again_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chaos, "VICTIMS", (chaos.DRIVER, chaos.WORKER))
    monkeypatch.setattr(chaos, "EARLY", 0.0)
    run = Chaos(tmp_path, "short", steps=5, seed=3)
    run.go(2)
    verdict = run.judge()
    assert len(run.books.kills) == 2
    assert (verdict["groups"], verdict["tasks"], verdict["weights"]) == (5 * chaos.PROMPTS, "in order", "equal")
    assert [verdict[name] for name in ("lost", "trained twice", "left out", "skipped", "faults")] == [[]] * 5


def test_the_table_by_hand() -> None:
    kills = [
        Kill(chaos.DRIVER, True, 0, False, -9, 1.5, 4),
        Kill(chaos.DRIVER, False, 2, True, -9, 1.0, 7),
        Kill("worker", False, 2),
    ]
    rows = {row[0]: row[1:] for row in table(kills)}
    assert rows["driver"] == ("2", "1", "1", "11", "-9 × 2", "1–1.5")
    assert rows["worker"] == ("1", "0", "0", "0", "–", "replaced inside the run")
    assert rows["GCS"] == ("0", "0", "0", "0", "–", "–")
    books = Books(kills, {3: {"a", "b"}, 4: set()}, ["a fault"], 5)
    assert Books.from_json(json.loads(json.dumps(books.to_json()))) == books
    assert digest([[1, 2], [3]]) != digest([[1], [2, 3]])
