"""Books on tokens: by hand, with money, and once only for a run that was resumed."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from rl.tracking.cost import CostConfig, PriceConfig
from rl.tracking.metrics import rollout_metrics, undocumented
from rl.tracking.report import report_html
from rl.tracking.rundir import RunDir, trajectory_json
from rl.tracking.summary import summary_table
from rl.tracking.usage import UsageBook, add_tally, tally, usage_rows
from rl.types import Group, Trajectory, Usage

COST = CostConfig(model="m", prices={"m": PriceConfig(input=2.0, cached_input=0.5, output=10.0)})


@pytest.fixture
def rollouts(make) -> list[Trajectory]:
    made = [
        make("a", outcome=1.0),
        make("b", outcome=0.0),
        make("c", family="code", outcome=0.5),  # half a point is not solved
        make("d", family="code", outcome=None, failure="env_error"),
    ]
    for i, t in enumerate(made):
        t.usage = Usage(requests=2, prompt=100 + i, cached=40, thinking=10, tool=i, answer=5)
    return made


def test_tally_by_hand(rollouts) -> None:
    families = tally(rollouts)
    assert list(families) == ["code", "search"]
    assert families["search"] == {
        "episodes": 2, "scored": 2, "solved": 1, "requests": 4, "prompt": 201, "cached": 80, "thinking": 20,
        "tool": 1, "answer": 10,
    }  # fmt: skip
    code = families["code"]
    # The failed rollout is no attempt that was judged, but its tokens were paid for.
    assert (code["episodes"], code["scored"], code["solved"], code["prompt"]) == (2, 1, 0, 205)


def test_summary_with_money(rollouts) -> None:
    book = UsageBook()
    book.put("evaluation before", "evaluation", tally(rollouts[:2]))
    book.put("GRPO", "rl", tally(rollouts))
    usage = book.summary(COST)
    row = usage["stages"]["evaluation before"]["total"]
    # (201 − 80) · 2 + 80 · 0.5 + 31 · 10 = 242 + 40 + 310 per million, one of two solved
    assert row["cost"] == row["cost_per_solved"] == pytest.approx(592e-6)
    assert row["tokens_per_solved"] == 201 + 31
    assert usage["stages"]["GRPO"]["families"]["code"]["cost_per_solved"] is None
    assert usage["total"]["episodes"] == 6
    assert usage["total"]["cost"] == pytest.approx(592e-6 + usage["stages"]["GRPO"]["total"]["cost"])
    assert usage["price"]["name"] == "m"
    free = book.summary(CostConfig())
    assert (free["price"], free["total"]["cost"]) == (None, None)
    assert free["total"]["tokens_per_solved"] is not None


def test_a_resumed_run_adds_up_once(rollouts) -> None:
    """Stopped two steps after a checkpoint: what the checkpoint had, plus the steps made (again), plus other stages."""
    first, second = tally(rollouts[:2]), tally(rollouts[2:])
    whole = UsageBook()
    whole.put("evaluation before", "evaluation", first)
    state: dict = {}
    for step in (first, second):
        add_tally(state, step)
        whole.put("GRPO", "rl", state)

    killed = UsageBook()
    killed.put("evaluation before", "evaluation", first)
    state = {}
    add_tally(state, first)
    checkpoint = json.loads(json.dumps(state))
    add_tally(state, second)
    killed.put("GRPO", "rl", state)
    stored = json.loads(json.dumps(killed.summary(COST)))

    resumed = UsageBook(stored["stages"])
    resumed.put("evaluation before", "evaluation", first)  # reused: put again, not added
    add_tally(checkpoint, second)
    resumed.put("GRPO", "rl", checkpoint)
    assert resumed.summary(COST) == whole.summary(COST) == stored


def test_metrics_and_trajectory_file(rollouts) -> None:
    m = rollout_metrics([Group(0, 0, "t", "search", 5, rollouts)], version=5)
    assert (m["usage/prompt"], m["usage/cached"], m["usage/tool"]) == (406, 160, 6)
    assert m["usage/family/code/thinking"] == 20
    assert m["length/thinking_mean"] == m["length/thinking_p90"] == 10
    assert undocumented(m) == []
    assert trajectory_json(rollouts[1])["usage"] == {
        "requests": 2, "prompt": 101, "cached": 40, "thinking": 10, "tool": 1, "answer": 5,
    }  # fmt: skip


def test_tables(rollouts, tmp_path) -> None:
    assert usage_rows({}) == usage_rows({"usage": UsageBook().summary(COST)}) == []
    book = UsageBook()
    book.put("GRPO", "rl", tally(rollouts))
    alone = usage_rows({"usage": book.summary(COST)})
    assert [row[0] for row in alone] == ["code", "search", "all"]
    book.put("evaluation after", "evaluation", tally(rollouts[:2]))
    summary = {"usage": book.summary(COST)}
    assert [row[0] for row in usage_rows(summary)] == ["GRPO", "evaluation after", "all"]
    rows = usage_rows(summary, families=True)
    assert [row[0] for row in rows] == ["GRPO", "GRPO · code", "GRPO · search", "evaluation after", "all"]
    assert rows[3][1:] == ("1 of 2", "201", "40%", "20", "1", "10", "232", "$0.00059", "$0.00059")
    assert rows[1][-1] == "–"
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(summary_table(summary))
    text = console.export_text()
    assert "tokens and money" in text
    assert "at the price of m, per million input $2.00, cached $0.50, output $10.00" in text
    run = RunDir(tmp_path)
    run.write_summary(summary)
    run.log_trajectories("eval_after", rollouts[:1])
    page = report_html(run)
    for piece in ("Tokens and money", "GRPO · search", "price of m", "prompt 100, cached 40, thinking 10"):
        assert piece in page, piece
