"""What the adaptation benchmark makes of finished runs, by hand; the runs themselves are tested as `rl-adapt`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import adaptation
from rl.policy.recall import CHOICES
from rl.recipes.sparse_adaptation import STATES


def run(dense: list[float], after: list[float]) -> dict[str, Any]:
    """adapt.json of a run; accuracy by document of the dense policy and of the others."""

    def state(shares: list[float]) -> dict[str, Any]:
        return {
            "accuracy": sum(shares) / len(shares),
            "by_sequence": shares,
            "by_depth": [0.2, None, 0.4, *[1.0] * 7],
            "found": {"indexer": 0.75, "oracle": 0.875},
            "mass": {choice: {"targets": 0.5, "all": 0.25} for choice in CHOICES},
        }

    states = {name: state(dense if name == adaptation.DENSE else after) for name in STATES}
    return {"states": states, "held_out": len(dense), "split": "test", "length": 4096, "index_topk": 32, "seed": 0}


def test_the_gap_is_that_of_the_same_documents() -> None:
    results = [run([0.8, 1.0], [0.7, 1.0]), run([0.8, 1.0], [0.9, 0.8])]
    gap = adaptation.minus_dense(results, adaptation.LAST)
    assert gap.mean == pytest.approx(-0.05)  # documents: 0.8 - 0.8 and 0.9 - 1.0
    assert gap.bootstrap == pytest.approx((-0.1, 0.0))
    assert adaptation.first_third(results[0], adaptation.LAST) == pytest.approx(0.3)  # an empty bin is left out


def test_a_table_and_a_plot_of_given_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, after in (("a", [0.7, 0.9]), ("b", [0.8, 1.0])):
        (tmp_path / name / "policy").mkdir(parents=True)
        (tmp_path / name / "policy" / "adapt.json").write_text(json.dumps(run([0.8, 1.0], after)))
    runs = [str(tmp_path / name) for name in ("a", "b")]
    monkeypatch.setattr("sys.argv", ["adaptation", "--from", *runs, "--out", str(tmp_path / "plot.svg")])
    adaptation.main()
    out = capsys.readouterr().out
    assert "| after stage 2 | 0.850 ± 0.050 | -0.050 [-0.050, -0.050] | 0.300 ± 0.000 | 0.750 ± 0.000 |" in out
    assert "2 test documents of 4,096 tokens" in out
    assert (tmp_path / "plot.svg").read_text().startswith("<svg")
    old = run([1.0], [1.0])
    del old["states"][adaptation.LAST]["found"]
    (tmp_path / "a" / "policy" / "adapt.json").write_text(json.dumps(old))
    with pytest.raises(SystemExit, match="lacks by_sequence or found"):
        adaptation.main()


def test_the_settings_are_ones_that_the_command_takes() -> None:
    from hydra import compose, initialize_config_module

    from configs.schema import register

    register()
    with initialize_config_module("configs", version_base="1.3"):
        compose("adapt", ["experiment=needle", *(each for given in adaptation.SETTINGS.values() for each in given)])
