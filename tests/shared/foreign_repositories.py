"""A git repository of two files with a real bug, and rows about it, made on the spot."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from envs.foreign.swe_columns import copy_key, swe_row
from envs.taskset import split_of

BAD = "def mean(values):\n    return sum(values) / len(values) + 1\n\n\ndef top(values):\n    return max(values)\n"
GOOD = BAD.replace(" + 1", "")
TESTS = "from calc.stats import top\n\n\ndef test_top():\n    assert top([1, 3, 2]) == 3\n"
HIDDEN = TESTS.replace("import top", "import mean, top") + "\n\ndef test_mean():\n    assert mean([1, 2, 3]) == 2\n"
UNITTEST = """import unittest

from calc.stats import mean


class MeanTests(unittest.TestCase):
    def test_mean(self):
        \"\"\"The mean of three.\"\"\"
        self.assertEqual(mean([1, 2, 3]), 2)
"""


class Repository:
    """``commit`` holds the bug; ``diff(files)`` is a patch from it."""

    def __init__(self, folder: Path, files: dict[str, str]) -> None:
        self.folder, self.files = folder, files
        folder.mkdir(parents=True)
        self.git("init", "-q")
        self._write(files)
        self.git("add", "-A")
        self.git("commit", "-qm", "one")
        self.commit = self.git("rev-parse", "HEAD").strip()

    def git(self, *words: str) -> str:
        who = ("-c", "user.name=a", "-c", "user.email=a@b.c")
        done = subprocess.run(["git", "-C", str(self.folder), *who, *words], capture_output=True, text=True, check=True)
        return done.stdout

    def diff(self, files: dict[str, str]) -> str:
        self._write(files)
        self.git("add", "-A")
        try:
            return self.git("diff", "--cached")
        finally:
            self.git("reset", "-q", "--hard")

    def _write(self, files: dict[str, str]) -> None:
        for path, text in files.items():
            (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / path).write_text(text)


def calc(folder: Path) -> Repository:
    files = {"calc/__init__.py": "", "calc/stats.py": BAD, "tests/test_stats.py": TESTS, "README.md": "Calc.\n"}
    return Repository(folder, files)


def good_row(repository: Repository, name: str = "acme__calc-1", **changed: Any) -> dict[str, Any]:
    """A row as SWE-bench has it."""
    return {
        "instance_id": name,
        "repo": "acme/calc",
        "base_commit": repository.commit,
        "problem_statement": "The mean is one too large.",
        "hints_text": "",
        "patch": repository.diff({"calc/stats.py": GOOD}),
        "test_patch": repository.diff({"tests/test_stats.py": HIDDEN}),
        "FAIL_TO_PASS": json.dumps(["tests/test_stats.py::test_mean"]),
        "PASS_TO_PASS": ["tests/test_stats.py::test_top"],
        "version": "1.0",
        **changed,
    }


def in_split(row: dict[str, Any], split: str = "train") -> dict[str, Any]:
    """The row with a patch that adds a note beside, so that it falls into a split."""
    note = "diff --git a/note.txt b/note.txt\nnew file mode 100644\n--- /dev/null\n+++ b/note.txt\n@@ -0,0 +1 @@\n+{}\n"
    rows = ({**row, "patch": row["patch"] + note.format(number)} for number in range(99))
    return next(one for one in rows if split_of(copy_key(swe_row(one))) == split)


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
