"""Cached stages: what the key depends on, reuse, damage, and that nothing half-made is ever seen."""

from __future__ import annotations

import fcntl
import io
import json
import multiprocessing
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from rl.run.stage_cache import INPUTS, MANIFEST, StageResult, cached_stage, damage, stage_key, sweep, tree_hash
from rl.tracking.progress import Progress

Produce = Callable[[Path, object], None]


def write(text: str, calls: list[Path] | None = None) -> Produce:
    def produce(out: Path, stage: object) -> None:
        if calls is not None:
            calls.append(out)
        (out / "result.txt").write_text(text)

    return produce


def run_stage(
    name: str, inputs: dict[str, Any], directory: Path, produce: Produce, shown: io.StringIO | None = None
) -> StageResult:
    with Progress([], console=Console(file=shown or io.StringIO(), width=300)) as progress:
        return cached_stage(name, name, inputs, directory, progress, produce)


def entries(directory: Path) -> list[str]:
    """What a cache holds, but for the lock of its own."""
    return [p.name for p in directory.iterdir() if p.name != ".lock"]


def test_a_stage_runs_once_per_inputs(tmp_path: Path) -> None:
    calls: list[Path] = []
    first = run_stage("cold", {"lr": 0.1}, tmp_path, write("a", calls))
    shown = io.StringIO()
    again = run_stage("cold", {"lr": 0.1}, tmp_path, write("b", calls), shown)
    other = run_stage("cold", {"lr": 0.2}, tmp_path, write("c", calls))
    assert (first.reused, again.reused, other.reused) == (False, True, False)
    assert first.path == again.path != other.path
    assert len(calls) == 2
    assert "cold: reused" in shown.getvalue()
    assert (again.path / "result.txt").read_text() == "a"
    assert json.loads((again.path / INPUTS).read_text()) == {"lr": 0.1}
    assert calls[0] != first.path  # written elsewhere, renamed when complete


def test_two_runs_that_make_the_same_stage_at_once(tmp_path: Path) -> None:
    """The second to finish throws its own copy away and uses the first's."""
    calls: list[Path] = []

    def slow(directory: Path, stage: object) -> None:
        run_stage("cold", {}, tmp_path, write("first", calls))
        write("second", calls)(directory, stage)

    result = run_stage("cold", {}, tmp_path, slow)
    assert len(calls) == 2
    assert (result.path / "result.txt").read_text() == "first"
    assert entries(tmp_path) == [result.path.name]


def test_a_failed_stage_leaves_nothing(tmp_path: Path) -> None:
    def produce(out: Path, stage: object) -> None:
        (out / "half.txt").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_stage("cold", {}, tmp_path, produce)
    assert entries(tmp_path) == []
    assert not run_stage("cold", {}, tmp_path, write("whole")).reused


@pytest.mark.parametrize("harm", ["changed", "shorter", "missing", "no manifest", "empty", "half a manifest"])
def test_a_damaged_entry_is_made_again_and_says_so(tmp_path: Path, harm: str) -> None:
    entry = run_stage("cold", {}, tmp_path, write("right")).path
    assert damage(entry) is None
    if harm == "changed":
        (entry / "result.txt").write_text("wrong")
    elif harm == "shorter":
        (entry / "result.txt").write_text("r")
    elif harm == "missing":
        (entry / "result.txt").unlink()
    elif harm == "no manifest":
        (entry / MANIFEST).unlink()
    elif harm == "half a manifest":
        (entry / MANIFEST).write_text('{"result.txt": {')
    else:
        for file in entry.iterdir():
            file.unlink()
    shown = io.StringIO()
    again = run_stage("cold", {}, tmp_path, write("again"), shown)
    assert not again.reused
    assert (entry / "result.txt").read_text() == "again"
    assert f"{entry} is damaged" in shown.getvalue()
    assert damage(entry) is None
    assert entries(tmp_path) == [entry.name]


@pytest.mark.parametrize("manifest", ["[]", "null", "{}", '{"inputs.json": 3}', '{"inputs.json": {"size": 1}}'])
def test_a_manifest_of_another_form_is_damage(tmp_path: Path, manifest: str) -> None:
    entry = run_stage("cold", {}, tmp_path, write("right")).path
    (entry / MANIFEST).write_text(manifest)
    assert not run_stage("cold", {}, tmp_path, write("again")).reused
    assert (entry / "result.txt").read_text() == "again"


@pytest.mark.parametrize("kind", ["file", "dangling link", "link to a folder"])
def test_whatever_lies_in_the_place_of_an_entry_is_taken_away(tmp_path: Path, kind: str) -> None:
    entry = run_stage("cold", {}, tmp_path, write("right")).path
    kept = tmp_path / "kept"
    kept.mkdir()
    shutil.rmtree(entry)
    if kind == "file":
        entry.write_text("no folder")
    else:
        entry.symlink_to(kept if kind == "link to a folder" else tmp_path / "nowhere")
    assert not run_stage("cold", {}, tmp_path, write("again")).reused
    assert (entry / "result.txt").read_text() == "again"
    assert kept.is_dir()


def _start(directory: str) -> str:
    return (run_stage("cold", {}, Path(directory), write("again")).path / "result.txt").read_text()


def test_processes_that_find_the_same_damage(tmp_path: Path) -> None:
    entry = run_stage("cold", {}, tmp_path, write("right")).path
    # Fresh processes: a copy of this one, with the threads of the tests before it, may stop at one of their locks.
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        for _ in range(10):
            (entry / "result.txt").write_text("wrong")
            assert pool.map(_start, [str(tmp_path)] * 4) == ["again"] * 4
    assert entries(tmp_path) == [entry.name]


def test_leftovers_of_killed_stages_are_swept_and_running_ones_stay(tmp_path: Path) -> None:
    long_ago = time.time() - 1000
    for name in ("killed", "running", "young", "before its lock"):
        scratch = tmp_path / f".stage-{name}"
        scratch.mkdir()
        (scratch / "half.txt").write_text("half")
        if name != "before its lock":
            (scratch / ".lock").touch()
        if name != "young":
            os.utime(scratch, (long_ago, long_ago))
    with (tmp_path / ".stage-running" / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        sweep(tmp_path)
        assert set(entries(tmp_path)) == {".stage-running", ".stage-young"}


def test_the_key_names_what_the_stage_depends_on() -> None:
    base = {"a": 1, "b": {"c": [1, 2]}}
    assert stage_key(base) == stage_key({"b": {"c": [1, 2]}, "a": 1})  # order of the keys does not matter
    for changed in ({**base, "a": 2}, {**base, "b": {"c": [2, 1]}}, {**base, "d": None}):
        assert stage_key(changed) != stage_key(base)
    with pytest.raises(TypeError):
        stage_key({"a": object()})  # no key from something whose text may differ from run to run


def test_tree_hash_follows_names_and_contents(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    before = tree_hash(tmp_path)
    (tmp_path / "a").write_text("2")
    assert tree_hash(tmp_path) != before
    (tmp_path / "a").write_text("1")
    assert tree_hash(tmp_path) == before
    (tmp_path / "a").rename(tmp_path / "b")
    assert tree_hash(tmp_path) != before
    with pytest.raises(FileNotFoundError, match="base=scratch"):
        tree_hash(tmp_path / "missing")
