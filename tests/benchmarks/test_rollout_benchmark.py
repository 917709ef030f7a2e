"""The benchmark of rollouts runs from end to end on a short setting; what it measures is not tested."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import rollouts


@pytest.mark.slow
@pytest.mark.engine
def test_rollouts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    short = ["--rounds", "1", "--groups", "2", "--size", "2", "--steps", "3", "--json", str(tmp_path / "a.json")]
    assert rollouts.main([*short, "rollout.max_concurrency=4", "rollout.kv_cache_gib=0.1"]) == 0
    (row,) = json.loads((tmp_path / "a.json").read_text())
    assert row[rollouts.DECODE]["tokens"] == row[rollouts.LLAMA]["tokens"] == 12
    assert 0 < row[rollouts.ROLLOUTS]["cached_tokens"] < row[rollouts.ROLLOUTS]["prompt_tokens"]
    assert "rollouts / decode only" in capsys.readouterr().out
