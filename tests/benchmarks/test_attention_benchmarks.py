"""The attention benchmarks run from end to end on their short settings; what they measure is not tested."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import decode, learner_attention


@pytest.mark.slow
def test_decode(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert decode.main(["--quick", "--svg", str(tmp_path / "a.svg"), "--json", str(tmp_path / "a.json")]) == 0
    rows = json.loads((tmp_path / "a.json").read_text())
    assert [row["context"] for row in rows] == [512, 1024]
    assert all(0 < row[f"{mode} attention"] < row[mode] for row in rows for mode in decode.MODES)
    assert "each further 1,024 tokens" in capsys.readouterr().out
    assert (tmp_path / "a.svg").read_text().count("<polyline") == 4


@pytest.mark.slow
def test_learner_attention(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert learner_attention.main(["--quick", "--json", str(tmp_path / "a.json")]) == 0
    cells = json.loads((tmp_path / "a.json").read_text())
    assert set(cells) == set(learner_attention.KINDS)
    assert all(cell["seconds"] > 0 and cell["gib"] > 0 for kind in cells.values() for cell in kind.values())
    assert "scores + top-k" in capsys.readouterr().out


@pytest.mark.slow
def test_a_cell_over_its_limit_says_so(tmp_path: Path) -> None:
    learner_attention.save_model(tmp_path)
    cell = learner_attention.start_cell("hf-eager", 2048, str(tmp_path), 1, 0.1, 60)
    assert cell == {"over": "over 0.1 GiB"}
