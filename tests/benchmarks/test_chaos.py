"""A handful of kills, as the benchmark has fifty: nothing is lost, nothing trained twice."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from benchmarks import chaos
from benchmarks.chaos import Books, Chaos, Kill, digest, small_disk, table

pytestmark = pytest.mark.run


@pytest.mark.slow  # five starts of engines
@pytest.mark.timeout(900)
def test_a_run_that_is_killed_again_and_again_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chaos, "VICTIMS", (chaos.DRIVER, chaos.WORKER, chaos.FULL))
    monkeypatch.setattr(chaos, "EARLY", 0.0)
    monkeypatch.setattr(chaos, "BURST_S", 0.5)  # also on a quick machine all of them come before the last step
    disk = tmp_path / "disk"
    fills = small_disk(disk)  # where it may not be mounted, no disk gets full
    try:
        run = Chaos(tmp_path, "short", 7, 3, disk, fills=fills)
        assert run.go(2 + fills)
        verdict = run.judge()
    finally:
        if fills:
            subprocess.run(["umount", "--lazy", str(disk)], check=True)
    assert sorted(kill.victim for kill in run.books.kills) == sorted(run.kinds)
    assert (verdict["groups"], verdict["tasks"], verdict["weights"]) == (7 * chaos.PROMPTS, "in order", "equal")
    assert [verdict[name] for name in ("lost", "trained twice", "left out", "skipped", "faults")] == [[]] * 5


def test_what_comes_next_does_not_depend_on_slices(tmp_path: Path) -> None:
    """A bench that goes on draws what it would have drawn, and every deck has each victim as often as it says."""
    one, two = (Chaos(tmp_path, "drawn", 9, 5, tmp_path, fills=False) for _ in range(2))
    assert chaos.FULL not in one.kinds
    drawn = []
    for _ in range(2 * len(one.kinds)):
        drawn.append(one.draw())
        assert two.draw() == drawn[-1]
        for each in (one, two):
            each.books.kills.append(Kill(drawn[-1][0], False, 0))
    decks = [sorted(kind for kind, _, _ in drawn[n : n + len(one.kinds)]) for n in (0, len(one.kinds))]
    assert decks == [sorted(one.kinds)] * 2


def test_an_end_that_nobody_wanted_is_a_fault(tmp_path: Path) -> None:
    run = Chaos(tmp_path, "ended", 9, 5, tmp_path, fills=False)
    run.books.kills.append(Kill(chaos.WORKER, True, 0))  # its engine started: the run stops
    run.ended_by_itself(1)
    assert (run.books.kills[0].exit_code, run.books.faults) == (1, [])
    run.ended_by_itself(1)  # once
    assert run.books.faults == ["ended by itself with code 1; kills before: 1"]


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
