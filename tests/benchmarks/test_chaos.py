"""A handful of kills, as the benchmark has fifty: nothing is lost, nothing trained twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import chaos
from benchmarks.chaos import Books, Chaos, Kill, digest, table

pytestmark = [pytest.mark.run, pytest.mark.slow]


def test_a_run_that_is_killed_again_and_again_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chaos, "VICTIMS", (chaos.DRIVER, chaos.WORKER))
    monkeypatch.setattr(chaos, "EARLY", 0.0)
    run = Chaos(tmp_path, "short", steps=8, seed=3)
    run.go(3)
    verdict = run.judge()
    assert len(run.books.kills) == 3
    assert (verdict["groups"], verdict["tasks"]) == (8 * chaos.PROMPTS, "in order")
    assert [verdict[name] for name in ("lost", "trained twice", "left out", "skipped", "faults")] == [[]] * 5


def test_the_table_by_hand() -> None:
    kills = [
        Kill(chaos.DRIVER, True, 0, -9, 1.0, 4),
        Kill(chaos.DRIVER, False, 2, -9, 1.0, 7),
        Kill("worker", False, 2),
    ]
    rows = {row[0]: row[1:] for row in table(kills)}
    assert rows["driver"] == ("2", "1", "11", "-9 × 2")
    assert rows["worker"] == ("1", "0", "0", "–")
    assert rows["GCS"] == ("0", "0", "0", "–")
    assert Books().kills == []
    assert digest([[1, 2], [3]]) != digest([[1], [2, 3]])
