"""A failure in one line: what, and where in the author's file."""

from __future__ import annotations

import importlib.util
import traceback
from pathlib import Path

import pytest

from rl.tracking.failures import author_place, failure, first_line

MODULE = """
import json

def divide(x):
    return 1 / x

def read(text):
    return json.loads(text)
"""


def raised(tmp_path: Path, call: str) -> str:
    """The traceback of ``call`` of the author's module."""
    file = tmp_path / "my_module.py"
    file.write_text(MODULE)
    spec = importlib.util.spec_from_file_location("my_module", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    try:
        eval(call, vars(module))
    except Exception as error:
        return "".join(traceback.format_exception(error))
    raise AssertionError("it did not raise")


@pytest.mark.parametrize(("call", "line"), [("divide(0)", 5), ("read('{')", 8)])
def test_the_place_is_the_authors_not_the_librarys(
    call: str, line: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = raised(tmp_path, call)
    assert author_place(text) == f"{tmp_path}/my_module.py:{line}"
    monkeypatch.chdir(tmp_path)
    assert author_place(text) == f"my_module.py:{line}"
    assert failure(f"t1: step raised\n{text}") == f"t1: step raised (my_module.py:{line})"


def test_our_own_frames_are_no_authors() -> None:
    from envs.taskset import split_of

    try:
        split_of("x", heldout_share=2.0)
    except ValueError as error:
        frames = traceback.extract_tb(error.__traceback__)[-1:]
        assert author_place("".join(traceback.format_list(frames))) is None


def test_a_failure_without_a_traceback() -> None:
    assert failure("t1: step took longer than 60 s") == "t1: step took longer than 60 s"
    assert failure("") == ""
    assert first_line("\n  a \nb") == "a"
