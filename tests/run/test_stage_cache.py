"""Cached stages: what the key depends on, reuse, and that nothing half-made is ever seen."""

from __future__ import annotations

from pathlib import Path

import pytest

from rl.run import cache as stages
from rl.run.cache import run_stage, source_hash, stage_key, tree_hash


def write(text: str, calls: list[Path] | None = None):
    def produce(out: Path) -> None:
        if calls is not None:
            calls.append(out)
        (out / "result.txt").write_text(text)

    return produce


def test_a_stage_runs_once_per_inputs(tmp_path: Path) -> None:
    calls: list[Path] = []
    first = run_stage("cold", {"lr": 0.1}, tmp_path, write("a", calls))
    again = run_stage("cold", {"lr": 0.1}, tmp_path, write("b", calls))
    other = run_stage("cold", {"lr": 0.2}, tmp_path, write("c", calls))
    assert (first.reused, again.reused, other.reused) == (False, True, False)
    assert first.path == again.path != other.path
    assert len(calls) == 2
    assert (again.path / "result.txt").read_text() == "a"
    assert calls[0] != first.path  # written elsewhere, renamed when complete


def test_two_runs_that_make_the_same_stage_at_once(tmp_path: Path) -> None:
    """The second to finish throws its own copy away and uses the first's."""
    calls: list[Path] = []

    def slow(directory: Path) -> None:
        run_stage("cold", {}, tmp_path, write("first", calls))
        write("second", calls)(directory)

    result = run_stage("cold", {}, tmp_path, slow)
    assert len(calls) == 2
    assert (result.path / "result.txt").read_text() == "first"
    assert [p.name for p in tmp_path.iterdir()] == [result.path.name]


def test_a_failed_stage_leaves_nothing(tmp_path: Path) -> None:
    def produce(out: Path) -> None:
        (out / "half.txt").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_stage("cold", {}, tmp_path, produce)
    assert list(tmp_path.iterdir()) == []
    assert not run_stage("cold", {}, tmp_path, write("whole")).reused


def test_the_key_names_what_the_stage_depends_on() -> None:
    base = {"a": 1, "b": {"c": [1, 2]}}
    assert stage_key(base) == stage_key({"b": {"c": [1, 2]}, "a": 1})  # order of the keys does not matter
    for changed in ({**base, "a": 2}, {**base, "b": {"c": [2, 1]}}, {**base, "d": None}):
        assert stage_key(changed) != stage_key(base)
    with pytest.raises(TypeError):
        stage_key({"a": object()})  # no key from something whose text may differ from run to run


def test_source_hash_follows_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "_SOURCE_ROOT", tmp_path)
    (tmp_path / "pkg" / "sub").mkdir(parents=True)
    (tmp_path / "one.py").write_text("x = 1\n")
    (tmp_path / "pkg" / "sub" / "two.py").write_text("y = 1\n")
    (tmp_path / "pkg" / "notes.txt").write_text("no code")
    before = source_hash("one.py", "pkg")
    (tmp_path / "pkg" / "notes.txt").write_text("still no code")
    (tmp_path / "other.py").write_text("z = 1\n")
    assert source_hash("one.py", "pkg") == before
    (tmp_path / "pkg" / "sub" / "two.py").write_text("y = 2\n")
    changed = source_hash("one.py", "pkg")
    assert changed != before
    (tmp_path / "pkg" / "sub" / "two.py").rename(tmp_path / "pkg" / "sub" / "renamed.py")
    assert source_hash("one.py", "pkg") != changed
    with pytest.raises(FileNotFoundError, match="no Python file at 'gone'"):
        source_hash("gone")


def test_the_stages_of_the_main_job_name_files_that_exist() -> None:
    from rl.recipes import policy_stages as train
    from rl.recipes import stages as worker_stages
    from rl.recipes import v32_pipeline as pipeline

    stages = (train._BASE_CODE, train._COLD_CODE, train._ENV_CODE, worker_stages.EVAL_CODE, pipeline.DISTILL_CODE)
    for code in stages:
        assert len(source_hash(*code)) == 64


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
