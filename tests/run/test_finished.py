"""Finished groups on disk: as they were, once, within their room, and only where they may be trained on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from recorded_segments import group as recorded_group
from recorded_segments import recorded
from test_batches import same

from rl.run.finished import FinishedGroups, decoded, encoded, stored
from rl.types import Group

MANY = 2**30


def group(number: int, version: int = 0) -> Group:
    return replace(recorded_group(recorded(0))[0], id=number, task_index=10 + number, version=version)


def opened(folder: Path, said: list[str], origin: str = "same", limit: int = MANY, keep: int = 2) -> FinishedGroups:
    return FinishedGroups(folder, origin, limit, keep, said.append)


def test_a_group_comes_back_as_it_was(tmp_path: Path) -> None:
    said: list[str] = []
    opened(tmp_path, said).put(group(3, version=7))
    after = opened(tmp_path, said)
    found = after.take(3, 13, version=8, max_staleness=1)
    assert same(found, group(3, version=7))
    assert after.take(3, 13, version=8, max_staleness=1) is None  # once
    assert after.reused == 1
    assert (tmp_path / "group_000003").is_file()  # until a checkpoint has it
    assert said == []


def test_what_is_too_large_is_not_even_fetched(tmp_path: Path) -> None:
    said: list[str] = []
    finished = opened(tmp_path, said, limit=2**20)
    finished.put(replace(group(3), handed={"tokens": 2**10, "indexer": 2**21}, refs="not there"))
    assert said == ["group 3 is not kept for a resume: it has 2.0 MiB, and keep_finished_mb=1"]
    assert stored(tmp_path) == {}


def test_nothing_of_this_process_comes_back(tmp_path: Path) -> None:
    finished = opened(tmp_path, [])
    finished.put(group(3))
    assert finished.take(3, 13, 0, 0) is None


def test_what_is_not_taken_is_named_and_removed(tmp_path: Path) -> None:
    first = opened(tmp_path, [])
    for number in range(5):
        first.put(group(number, version=4))
    (tmp_path / "group_000000").write_bytes((tmp_path / "group_000000").read_bytes()[:-1])
    said: list[str] = []
    after = opened(tmp_path, said)
    assert after.take(0, 10, 4, 0) is None  # cut off
    assert after.take(1, 12, 4, 0) is None  # of another task
    assert after.take(2, 12, 6, 1) is None  # two versions old
    assert after.take(3, 13, 3, 1) is None  # of weights that are not there yet
    assert opened(tmp_path, said, origin="edited").take(4, 14, 4, 0) is None
    assert [line.removeprefix("warning: finished group ") for line in said] == [
        f"0 is sampled again: {tmp_path}/group_000000 is damaged (its content is not what was written)",
        "1 is sampled again: it is of task 11, and task 12 is next",
        "2 is sampled again: it is of version 4, too old for version 6",
        "3 is sampled again: it is of version 4, too old for version 3",
        "4 is sampled again: the run's settings or its start policy have changed since",
    ]
    assert stored(tmp_path) == {}


@pytest.mark.parametrize("content", [b"", b"\n", b"no hash\nand no group", encoded(group(0), "")[:80]])
def test_anything_else_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match="not what was written"):
        decoded(content)


def test_groups_stay_until_every_kept_checkpoint_has_them(tmp_path: Path) -> None:
    finished = opened(tmp_path, [], keep=2)
    finished.begin(0)
    for number in range(6):
        finished.put(group(number))
    finished.checkpoint(2)  # groups 0 and 1 are in it; before it there is the beginning of the stage
    assert sorted(stored(tmp_path)) == [0, 1, 2, 3, 4, 5]
    finished.checkpoint(4)
    assert sorted(stored(tmp_path)) == [2, 3, 4, 5]
    finished.clear()
    assert stored(tmp_path) == {}


def test_the_oldest_give_way(tmp_path: Path) -> None:
    said: list[str] = []
    size = len(encoded(group(0), "same"))
    finished = opened(tmp_path, said, limit=2 * size + size // 2)
    for number in range(4):
        finished.put(group(number))
    assert sorted(stored(tmp_path)) == [2, 3]
    assert said == []
    tight = opened(tmp_path, said, limit=size // 2)
    tight.put(group(9))
    assert len(said) == 1
    assert said[0].startswith("group 9 is not kept for a resume: it has 0.0 MiB, and keep_finished_mb=")


def test_half_a_file_of_a_killed_driver_is_no_group(tmp_path: Path) -> None:
    (tmp_path / ".group_000001.tmp").write_bytes(b"half")
    opened(tmp_path, [])
    assert list(tmp_path.iterdir()) == []
