"""How many questions there are, by those that came twice."""

from __future__ import annotations

import pytest

from benchmarks.wiki_search import supplies
from envs.types import Task


def test_pairs_with_the_same_key_tell_how_many_there_are() -> None:
    drawn = [("chain", "a"), ("chain", "a"), ("chain", "a"), ("chain", "b"), ("chain", "c"), ("compare", "a")]
    drawn += [("compare", "b")]
    tasks = [Task(str(n), "wiki", (), "", {"shape": shape, "key": key}) for n, (shape, key) in enumerate(drawn)]
    # chain: of 5 * 4 / 2 = 10 pairs 3 are the same; compare: of 1 pair none
    assert supplies(tasks) == {"chain": (5, 3, pytest.approx(10 / 3)), "compare": (2, 0, 1.0)}
