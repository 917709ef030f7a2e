"""docs/tutorial.md from its first command to its last, as printed, in an empty folder; training at smoke's sizes."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from docs_commands import OUT, rule
from shown_lines import shown
from train_runs import BIN

from rl.tracking.rundir import RunDir

pytestmark = [pytest.mark.run, pytest.mark.slow]

ORACLE = ":oracle\n:oracle\n:oracle\n"


def test_from_nothing_to_a_policy_that_one_watches(tmp_path: Path) -> None:
    commands = [one for one in shown() if one.page == "docs/tutorial.md" and rule(one).way != OUT]
    assert len(commands) == 11
    environment = os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    here, output = tmp_path, ""
    for one in commands:
        name, *words = one.words
        if name == "cd":
            here = here / words[0]
            continue
        line = one.text
        if name == "rl-train":
            line = shlex.join([name, *(re.sub(r"^steps=\d+$", "steps=2", word) for word in words), "experiment=smoke"])
        done = subprocess.run(
            ["bash", "-ec", line], cwd=here, env=environment, input=ORACLE, text=True, timeout=300,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        output = done.stdout
        assert done.returncode == 0, f"{line}\n{output}"
        if name == "envs-init":
            assert "\n  rl-train env._target_=my_store.MyStoreTaskset\n" in output
        if name == "envs-play":
            assert "outcome 1" in output
    assert output.count("outcome") >= 2  # rl-chat's two tasks
    for run in ("store", "short"):
        summary = RunDir.existing(here / "runs" / run).read_summary()
        assert summary["tokens_sampled"] > 0
        assert (summary["steps"], list(summary["eval_after"]["families"])) == (2, ["my_store"])
