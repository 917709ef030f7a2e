"""An agent that is a command, played by a real worker: it is started where the command of ours was."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import pytest
from train_runs import Command

from rl.tracking.rundir import RunDir

AGENT = """
import json, sys
from openai import OpenAI

row = json.load(sys.stdin)
asked = [{"role": "user", "content": row["prompt"]}]
response = OpenAI().responses.create(model="policy", input=asked)
print("a log line")
print(json.dumps({"outcome": 0.5, "number": float(row["answer"])}))
"""


@pytest.mark.slow
def test_a_command_is_evaluated(tmp_path: Path) -> None:
    (tmp_path / "agent.py").write_text(AGENT)
    rows = [{"prompt": f"Ship order {n}.", "answer": str(n)} for n in range(40)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Command(
        "rl-eval", "path=pkg://rl.bases/tiny_dsa_base", "env=own_agent", "env.path=rows.jsonl",
        f"env.command={shlex.quote(sys.executable)} agent.py", "eval.n_tasks=3", "eval.k=1", "out=result",
        "rollout.kv_cache_gib=0.1", cwd=tmp_path,
    ).wait()  # fmt: skip
    result = RunDir(tmp_path / "result", make=False)
    assert result.read_summary()["eval_after"]["overall"] == 0.5
    for row in result.read_trajectories("eval_after"):
        assert row["messages"][0]["content"] == f"Ship order {row['reward_parts']['score/number']:g}."
        assert row["sampled_tokens"] > 0
