"""Figures of the roles, by hand."""

from __future__ import annotations

from typing import Any

import pytest

from rl.proof.measure import role_figures


def _proof(task: str, outcome: float, claimed: float, verifier: float, formed: float = 1.0) -> dict[str, Any]:
    parts = {
        "score/outcome": outcome, "score/formatted": formed, "score/self_score": claimed,
        "score/error": abs(claimed - outcome) if formed else 1.0, "generator/verifier_score": verifier,
    }  # fmt: skip
    return {"family": "prove", "task_id": task, "reward_parts": parts}


def test_proofs_by_hand() -> None:
    rows = [
        _proof("a", 1.0, 1.0, 0.5), _proof("a", 0.0, 0.5, 1.0),  # self picks the right one, the verifier the wrong one
        _proof("b", 0.0, 1.0, 0.0), _proof("b", 1.0, 1.0, 1.0),  # self-scores are equal: half
        _proof("c", 0.0, 0.0, 0.0), _proof("c", 0.0, 0.0, 0.0, formed=0.0),  # nothing to pick
        {"family": "prove", "task_id": "d", "reward_parts": {}},  # failed
    ]  # fmt: skip
    figures = role_figures(rows)
    assert figures["solved"] == pytest.approx(2 / 6, abs=1e-4)
    assert figures["pass_any"] == pytest.approx(2 / 3, abs=1e-4)
    assert figures["best_self"] == pytest.approx((1 + 0.5 + 0) / 3, abs=1e-4)
    assert figures["best_verifier"] == pytest.approx((0 + 1 + 0) / 3, abs=1e-4)
    assert figures["formatted"] == pytest.approx(5 / 6, abs=1e-4)
    assert figures["self_error"] == pytest.approx((0 + 0.5 + 1 + 0 + 0) / 5, abs=1e-4)
    assert "verify_right" not in figures


def test_the_other_roles_by_hand() -> None:
    def row(family: str, **scores: float) -> dict[str, Any]:
        return {"family": family, "task_id": "t", "reward_parts": {f"score/{k}": v for k, v in scores.items()}}

    figures = role_figures(
        [
            row("verify", outcome=1, error=0, analysis=1),
            row("verify", outcome=0, error=0.5, analysis=0.5),
            row("assess", outcome=1),
            row("refine", outcome=0),
        ]
    )
    assert figures == {
        "refined": 0.0, "verify_right": 0.5, "verify_error": 0.25, "verify_analysis": 0.75, "assess_right": 1.0,
    }  # fmt: skip
