"""Metrics and summary against hand-computed numbers; the documentation page against the list."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from envs.types import StopReason
from rl.tracking.episodes import event_counts
from rl.tracking.evaluation import eval_summary
from rl.tracking.metrics import METRICS, entry, flatten, metrics_markdown, rollout_metrics, undocumented
from rl.tracking.summary import clock, evaluation_rows, evaluation_table, summary_table
from rl.types import Group


def test_rollout_metrics_by_hand(make) -> None:
    groups = [
        Group(0, 0, "search/0", "search", 5, [make("a", reward=1.0), make("b", reward=0.0, outcome=0.0)]),
        Group(
            1,
            1,
            "code/0",
            "code",
            4,
            [
                make("c", family="code", sampled=7, version=4, counts={"malformed_call": 2}),
                make("d", family="code", failure="env_error", outcome=None, stop=StopReason.ENV_ERROR),
            ],
        ),
    ]
    m = rollout_metrics(groups, version=5)
    assert m["episode/count"] == 4
    assert m["failure/total"] == m["failure/env_error"] == 1
    assert m["reward/mean"] == pytest.approx(2 / 3)  # the failed one is no zero
    assert m["reward/std"] == pytest.approx(math.sqrt(2 / 9))
    assert m["reward/family/search"] == 0.5
    assert m["reward/family/code"] == m["outcome/family/code"] == 1.0
    assert m["score/outcome"] == m["reward/part/outcome"] == pytest.approx(2 / 3)
    assert m["group/zero_variance"] == 0.5  # code has one valid sample
    assert m["length/sampled_mean"] == pytest.approx((3 + 3 + 7) / 3)
    assert m["tokens/sampled"] == 3 + 3 + 7 + 3
    assert m["tokens/total"] == 16 + 4 * 2
    assert m["staleness/max"] == 1
    assert m["staleness/mean"] == pytest.approx(7 / 16)
    assert m["count/malformed_call"] == 2
    assert m["stop/answered"] == 0.75
    assert undocumented(m) == []


def test_rollout_metrics_of_nothing(make) -> None:
    assert rollout_metrics([])["episode/count"] == 0
    failed = rollout_metrics([Group(0, 0, "t", "search", 0, [make(failure="aborted")])])
    assert "reward/mean" not in failed


def test_flatten() -> None:
    assert flatten({"loss": {"total": np.float32(1), "kl": 2}, "x": True}) == {
        "loss/total": 1.0,
        "loss/kl": 2.0,
        "x": 1.0,
    }
    with pytest.raises(TypeError, match="metric 'a/b' is 'text'"):
        flatten({"a": {"b": "text"}})


def test_names_are_documented() -> None:
    names = ["reward/family/search", "stop/max_turns", "mismatch/max", "rewards/mean", "stop/a/b", "step"]
    assert undocumented(names) == ["rewards/mean", "step", "stop/a/b"]
    assert all(text.endswith(".") or text.endswith("…") or text.endswith("nats.") for text in METRICS.values())


def test_the_page_is_up_to_date() -> None:
    page = Path(__file__).parents[2] / "docs" / "metrics.md"
    assert page.read_text() == metrics_markdown(), "run: python -m rl.tracking.metrics docs/metrics.md"


def test_an_entry_of_a_page_is_wrapped_and_shows_what_is_written() -> None:
    for words in range(10, 24):
        text = "_target_ of <name>, 2 * 3 " + "word " * words + "- then `one command with spaces` and the rest"
        lines = entry("**`x`**", text).splitlines()
        assert lines[0].startswith(r"- **`x`**: \_target\_ of \<name>, 2 \* 3 word ")
        assert all(len(line) <= 120 for line in lines)
        assert all(line.startswith("  ") and not line.startswith("  -") for line in lines[1:])  # no list inside
        assert sum("`one command with spaces`" in line for line in lines) == 1


def test_every_metric_is_on_the_page() -> None:
    page = metrics_markdown()
    assert [name for name in METRICS if page.count(f"- **`{name}`**: ") != 1] == []


def test_eval_summary_by_hand(make) -> None:
    rollouts = [
        make("a", task="s/0", outcome=1.0),
        make("b", task="s/0", outcome=0.0),
        make("c", task="s/1", outcome=1.0),
        make("d", task="s/1", outcome=None, failure="env_error"),
        # masked by the length policy, but scored: evaluation counts it
        make("e", task="c/0", family="code", outcome=0.0, failure="length_mask_context"),
    ]
    table = eval_summary(rollouts)
    search = table["families"]["search"]
    assert search["avg@k"] == pytest.approx((0.5 + 1.0) / 2)
    # task means 0.5 and 1.0: s = 0.35355, stderr = s / sqrt(2) = 0.25
    assert search["stderr"] == pytest.approx(0.25)
    assert (search["n_tasks"], search["k"], search["n_unscored"]) == (2, 2, 1)
    assert table["families"]["code"]["avg@k"] == 0.0
    assert table["overall"] == pytest.approx(0.5)
    assert table["n_tasks"] == 3
    with pytest.raises(ValueError, match="no scored trajectory"):
        eval_summary([make(outcome=None)])


def test_event_counts(make) -> None:
    counts, failures = event_counts([make(counts={"tool_error": 2}), make(failure="env_timeout")])
    assert counts == {"tool_error": 2}
    assert failures == {"env_timeout": 1}


def test_final_table(make) -> None:
    before = eval_summary([make(outcome=0.0), make(task="c", family="code", outcome=0.0)])
    after = eval_summary([make(outcome=1.0), make(task="c", family="code", outcome=1.0)])
    summary = {"eval_before": before, "eval_after": after, "wall_s": {"grpo": 75.0, "report": 1.0}}
    assert [row[0] for row in evaluation_rows(summary)] == ["code", "search", "overall"]
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(summary_table(summary | {"failures": {"aborted": 1}}, "runs/x/report.html"))
    text = console.export_text()
    for piece in ("+1.000", "2 × 1", "grpo 1m15s", "aborted 1", "runs/x/report.html"):
        assert piece in text
    # before any evaluation there is still a table
    Console(file=io.StringIO()).print(summary_table({}))


def test_what_is_not_held_out_does_not_say_so(make) -> None:
    found = {"eval_after": eval_summary([make(outcome=1.0)]), "evaluated": "episodes of agents outside"}
    title, columns, rows = evaluation_table(found)
    assert (title, columns) == ("episodes of agents outside", ("family", "outcome", "tasks × k", "tokens"))
    assert [row[0] for row in rows] == ["search", "overall"]
    assert rows[0][2] == "1 × 1"
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(summary_table(found))
    assert not {"held-out", "before", "change"} & set(console.export_text().split())


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0s"), (59.6, "1m00s"), (75, "1m15s"), (3700, "1h01m")])
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text
