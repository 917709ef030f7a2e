"""The report: complete from a run's files, self-contained, and safe against what a policy writes."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rl.tracking import curves, report
from rl.tracking.evaluation import eval_summary
from rl.tracking.report import report_html, write_report
from rl.tracking.rundir import RunDir, step_name
from rl.tracking.samples import before_and_after
from rl.tracking.svg import Series, _ticks, bar_chart, line_chart, smooth

EVIL = '</pre><script>alert(1)</script> & "quoted" \ud800'


class Balanced(HTMLParser):
    """Checks that every opened element is closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.seen.add(tag)
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        self.seen.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture
def run(tmp_path: Path, make) -> RunDir:
    run = RunDir(tmp_path / "demo <1>")
    run.write_config("seed: 1\n# <b>\n")
    for step in range(1, 21):
        run.log_metrics(
            "grpo",
            step,
            {
                "reward/mean": step / 20,
                "reward/family/search": step / 25,
                "reward/family/code": step / 18,
                "length/sampled_mean": 80 - step,
                "length/family/search": 70 - step,
                "mismatch/max": 1e-5 * step,
                "mismatch/mean": 0.0,
                "learner/tokens_per_s": 8000.0,
            },
        )
    bad = make("b", family="code", reward=0.0, outcome=0.0, failure="env_error", text=EVIL)
    bad.counts["malformed_call"] = 2
    bad.messages[1]["parse_error"] = "parameter <x> is not closed"
    run.log_trajectories(step_name(20), [make("a"), bad])
    run.log_trajectories("eval_after", [make("a")])
    table = eval_summary([make(outcome=1.0), make(task="c", family="code", outcome=0.5)])
    before = eval_summary([make(outcome=0.0), make(task="c", family="code", outcome=0.5)])
    run.write_summary(
        {
            "eval_before": before,
            "eval_after": table,
            "wall_s": {"cold start": 61.0, "grpo": 100.0},
            "tokens_sampled": 12345,
            "mismatch_max": 2e-4,
            "counts": {"malformed_call": 2},
            "failures": {"env_error": 1},
        }
    )
    return run


def test_the_report_is_complete_and_well_formed(run: RunDir) -> None:
    path = write_report(run)
    page = path.read_text()
    parser = Balanced()
    parser.feed(page)
    parser.close()
    assert parser.open == []
    for piece in (
        "Held-out evaluation",
        "+0.500",
        "12,345",
        "2.0e-04",
        "cold start",
        "step_000020",
        "eval_after",
        "malformed_call 2",
        "masked: env_error",
        "I search.",
        "search(query=&#34;x&#34;)",
        "parameter &lt;x&gt; is not closed",
        "score/outcome 1.0",
    ):
        assert piece in page, piece
    assert page.count("<svg") == 6


def test_the_same_tasks_before_and_after(tmp_path: Path, make) -> None:
    run = RunDir(tmp_path / "pairs")
    outcomes = {  # task: rollouts before, rollouts after
        "up": ([0.0, 0.0, 1.0, 0.0], [1.0, 1.0, 0.0, 1.0]),
        "up a little": ([0.0, 0.0], [0.0, 1.0]),
        "always": ([1.0, 1.0], [1.0, 1.0]),
        "half": ([0.0, 1.0], [1.0, 0.0]),
        "down": ([1.0, 0.0], [0.0, 0.0]),
    }
    for i, name in enumerate(("eval_before", "eval_after")):
        rows = [
            make(f"{task}/{k}", task=task, outcome=outcome, text=f"{task} {name} {outcome:g}")
            for task, both in outcomes.items()
            for k, outcome in enumerate(both[i])
        ]
        rows.append(make("masked", task="down", outcome=0.0, failure="env_error"))
        run.log_trajectories(name, rows)
    found = before_and_after(run)
    assert [(p.what, p.task, p.mean_before, p.mean_after, p.k) for p in found] == [
        ("most improved", "up", 0.25, 0.75, 4),
        ("unchanged", "half", 0.5, 0.5, 2),
        ("most worsened", "down", 0.5, 0.0, 2),
    ]
    # of each a typical rollout: the one whose outcome is nearest to the mean
    said = [(p.before.messages[-1].content, p.after.messages[-1].content) for p in found]
    assert said[0] == ("up eval_before 0", "up eval_after 1")
    assert said[2] == ("down eval_before 1", "down eval_after 0")
    page = report_html(run)
    assert "most improved: search · up" in page
    assert "mean outcome of 4 rollouts 0.25 → 0.75" in page
    assert page.count("<details open>") == 6
    run.log_trajectories("eval_after", [make("x", task="another")])
    assert before_and_after(run) == []


def test_nothing_is_loaded_and_nothing_runs(run: RunDir) -> None:
    page = report_html(run)
    parser = Balanced()
    parser.feed(page)
    assert not parser.seen & {"script", "link", "img", "iframe"}
    assert not re.search(r"(src|href)=|@import|url\(", page)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "demo &lt;1&gt;" in page


def test_a_run_that_has_just_begun_has_a_report(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    assert "no summary yet" in report_html(run)
    run.log_metrics("grpo", 1, {"reward/mean": 0.5, "mismatch/max": 0.0})
    assert "no data" in report_html(run)  # a log axis has no place for zero


def test_commands(run: RunDir, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report.main([str(run.path)]) == 0
    assert capsys.readouterr().out.strip() == str(run.report)
    out = tmp_path / "out.svg"
    assert curves.main([str(run.path), str(out)]) == 0
    root = ET.parse(out).getroot()
    assert len(root.findall("{http://www.w3.org/2000/svg}svg")) == 4
    assert curves.main([]) == 2


def test_a_line_is_where_it_belongs() -> None:
    # plot area: x 52..546, y 34 (top) .. 226 (bottom)
    svg = line_chart("t", [Series("a", [(0, 0.0), (10, 1.0)])], y_range=(0, 1))
    assert 'points="52.0,226.0 546.0,34.0"' in svg


def test_bars_have_the_right_height() -> None:
    svg = bar_chart("t", {"a": (0.25, 0.0)}, {"a": (1.0, 0.1)})
    heights = [float(h) for h in re.findall(r'class="[ab]f"[^>]*height="([\d.]+)"', svg)]
    assert heights == [48.0, 192.0]  # of 192 px for 1.0
    ET.fromstring(svg)


def test_smoothing_by_hand() -> None:
    points = [(0, 0.0), (1, 3.0), (2, 6.0), (3, 0.0)]
    assert smooth(points, 3) == [(0, 1.5), (1, 3.0), (2, 3.0), (3, 3.0)]
    assert smooth(points, 1) == points


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_are_few_round_and_inside(low: float, width: float) -> None:
    high = low + width
    ticks = _ticks(low, high)
    assert len(ticks) <= 7
    slack = 1e-6 * max(width, abs(low), abs(high))
    assert all(low - slack <= tick <= high + slack for tick in ticks)


@example([(0, 5e-324), (1, 0.0)], True)
@example([(0, 5e-324), (1, 0.0)], False)
@example([(0, 1e9), (1, 1e9 + 1e-6)], False)
@given(st.lists(st.tuples(st.integers(0, 100), st.floats(allow_nan=True)), max_size=20), st.booleans())
def test_any_numbers_make_a_chart(points: list[tuple[int, float]], log_y: bool) -> None:
    finite = [(x, y) for x, y in points if not abs(y) > 1e100]
    ET.fromstring(line_chart("<t>", [Series("a & b", finite)], log_y=log_y))
