"""The report's templates: every section, hostile text in every place, and no name that is not there."""

from __future__ import annotations

import json
import re
import tomllib
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import fields
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from jinja2 import UndefinedError

from rl.tracking.cost import CostConfig, PriceConfig
from rl.tracking.report import Page, Table, gather, render, report_html, templates
from rl.tracking.rundir import RunDir, trajectory_json
from rl.tracking.svg import STYLE, SVG_STYLE, Series, bar_chart, line_chart, readable
from rl.tracking.usage import UsageBook, tally
from rl.types import Usage

Mark = Callable[[str], str]
ATTACK = (
    "<script>alert(1)</script></style></title></pre></svg>--> \"a\" 'b' &amp; {{ 7*7 }}{% if %}{# c #}"
    "\x00\x1b[31m\x9b\ud800"
)
ENTRY = {"mean": 0.5, "stderr": 0.1, "n_tasks": 2, "bootstrap": [0.3, 0.7], "wilson": [0.2, 0.8]}
TAGS = {
    "html", "head", "meta", "title", "style", "body", "h1", "h2", "h3", "p", "div", "b", "span", "table", "tr", "th",
    "td", "figure", "svg", "text", "line", "polyline", "circle", "rect", "details", "summary", "pre",
}  # fmt: skip


def hostile(place: str) -> str:
    return f"{place} {ATTACK}"


def evaluation(family: str, score: float) -> dict[str, Any]:
    figures = {"avg@k": score, "stderr": 0.1, "k": 4, "n_tasks": 2, "reward": score, "sampled_tokens": 9.0}
    estimates = {"confidence": 0.95, "estimates": {"avg@4": ENTRY, "pass@2": ENTRY}}
    own = figures | {"n_unscored": 0, "estimates": estimates["estimates"], "tasks": {"t": score}}
    return {"overall": score, "stderr": 0.1, "k": 4, "n_tasks": 2, "families": {family: own}} | estimates


def full_run(path: Path, mark: Mark, make: Any) -> RunDir:
    """A run whose report has every section; ``mark`` makes the names and texts in it."""
    run = RunDir(path)
    run.write_config(mark("config") + "\n")
    family = mark("family")
    for step in (1, 2):
        run.log_metrics("grpo", step, {f"reward/family/{family}": step / 2, "reward/mean": 0.5, "mismatch/max": 1e-4})
        run.log_metrics(f"grpo/{mark('alarm')}", step, {"alarm/mismatch": 1.0, f"alarm/{mark('detector')}": 1.0})
        run.log_metrics(f"grpo/{mark('specialist')}", step, {"reward/mean": step / 2})
    rollout = make("a", family=family, task=mark("task"), failure=mark("failure"), counts={mark("event"): 2})
    rollout.usage = Usage(requests=1, prompt=10, cached=4, thinking=3, tool=0, answer=2)
    rollout.reward_parts[mark("reward part")] = 0.25
    row = trajectory_json(rollout) | {"stop_reason": mark("stop reason")}
    call = {"name": mark("tool call"), "arguments": {mark("argument"): "x"}}
    row["messages"] = [
        {"role": mark("role"), "content": mark("question"), "tools": [{"name": mark("tool")}]},
        {"role": "assistant", "content": mark("answer"), "reasoning": mark("reasoning"), "tool_calls": [call]},
        {"role": "tool", "content": "", "parse_error": mark("parse error")},
    ]
    for name in ("eval_before", "step_000002"):
        (run.trajectories / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
    for name, outcome in (("eval_before", 0.0), ("eval_after", 1.0)):
        pair = make("p", family=mark("pair family"), task=mark("pair task"), outcome=outcome, text=mark(name))
        with (run.trajectories / f"{name}.jsonl").open("a") as file:
            file.write(json.dumps(trajectory_json(pair)) + "\n")
    book = UsageBook()
    book.put(mark("usage stage"), "rl", tally([rollout]))
    book.put("evaluation", "evaluation", tally([rollout]))
    price = mark("price")
    before, after = evaluation(family, 0.25), evaluation(family, 0.75)
    point = {
        "max_thinking": 8, "limit": 8, "evaluation": after, "tokens": {"mean": 9.0, "p90": 9.0},
        "thinking": {"mean": 3.0, "p90": 3.0}, "thinking_cut": 0.0, "truncated": 0.0, "stops": {mark("stop"): 1.0},
    }  # fmt: skip
    mean = {"mean": 0.5, "stderr": 0.1}
    swept = {"max_thinking": 8, "limit": 8, "accuracy": mean, "tokens": mean, "p90": mean, "truncated": mean}
    kinds = ("sampled", "kept", "not_passed", "failed", "unverified", "duplicate", "over_cap")
    specialist = {"eval": after, "data": dict.fromkeys(kinds, 1), "steps": 2, "stop_reason": mark("specialist ended")}
    summary: dict[str, Any] = {
        "certificates": {
            family: {"state": "stale", "said": mark("certificate"), "date": "2030-01-02T03:04", "tasks": 20,
                     "results": {"oracle": mark("oracle"), "cheats": "0 of 63 paid"}},
        },
        "reward": mark("reward"), "eval_before": before, "eval_after": after, "baseline": mark("baseline"),
        "sweep": {"thinking": [point]}, "policies": {mark("policy"): {"eval_after": before}},
        "across": {"n": 1, "overall": mean, "families": {family: mean}, "sweep": [swept]}, "confidence": 0.95,
        "pipeline": {"specialists": {mark("specialist"): specialist}, "distilled": before},
        "usage": book.summary(CostConfig(model=price, prices={price: PriceConfig(input=2.0, output=9.0)})),
        "compute": {"stages": {mark("compute stage"): {"rollout": 1e9, "learner": 1e9}}, "rl_over_total": 1.0},
        "wall_s": {mark("stage"): 61.0}, "counts": {mark("count"): 2}, "failures": {mark("masked"): 1},
        "tokens_sampled": 12, "stop_reason": mark("ended"),
    }  # fmt: skip
    run.summary.write_text(json.dumps(summary))
    run.diagnoses.mkdir()
    part = {"part": mark("part"), "status": "not recorded", "why": mark("why"), "mean": 0.0}
    found = {"step": 2, "version": 1, "device": mark("device"), "tokens": {"exact": 3, "older": 0}}
    found |= {"measured_on": "exact", "rows": [part], "worst": {}}
    (run.diagnoses / "step_000002.json").write_text(json.dumps(found))
    return run


class Shown(HTMLParser):
    """What a browser makes of the page: elements, their attributes, and text by the element it stands in."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text: dict[str, str] = {}
        self.open: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        tag = self.open[-1] if self.open else ""
        self.text[tag] = self.text.get(tag, "") + data


def test_hostile_text_is_shown_as_it_is_and_never_run(tmp_path: Path, make) -> None:
    used: set[str] = set()

    def mark(place: str) -> str:
        used.add(place)
        return hostile(place)

    folder = ATTACK.replace("/", "").replace("\x00", "").replace("\ud800", "")  # what a file name may hold
    run = full_run(tmp_path / folder, mark, make)
    page = report_html(run)
    shown = Shown(page)
    assert shown.open == []
    assert shown.tags == TAGS
    assert not {name for name in shown.attributes if name.startswith("on") or name in ("src", "href")}
    assert not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]", page)
    css = (files("rl.tracking") / "templates" / "report.css").read_text()
    assert shown.text["style"].split() == f"{STYLE} {SVG_STYLE} {css}".split()
    text = "\n".join(shown.text.values())
    assert text.count("{{ 7*7 }}") >= len(used) > 30
    for place in used:
        assert readable(hostile(place)) in text, place
    assert shown.text["h1"] == readable(folder)
    assert readable(folder) + " · report" in shown.text["title"]
    for tag in ("text", "title"):  # the charts name families too
        assert readable(hostile("family")) in shown.text[tag]


def test_every_section_is_there_and_needs_its_data(tmp_path: Path, make) -> None:
    page = gather(full_run(tmp_path / "full", str, make))
    titles = re.findall(r"<h2>(.*?)</h2>", render(page))
    assert titles == [
        "Held-out evaluation", "Certificates of the task sets", "Policies on the same tasks", "Thinking sweep",
        "Specialists, distillation, mixed RL",
        "Curves", "Alarms", "Is it a normal run?", "The same held-out tasks before and after",
        "Train/inference mismatch by part", "Tokens and money", "Compute", "Time",
        "What went wrong inside episodes", "Sample trajectories", "Config",
    ]  # fmt: skip
    for field in fields(Page):
        without: Any = SimpleNamespace(**{name: value for name, value in vars(page).items() if name != field.name})
        with pytest.raises(UndefinedError, match=f"has no attribute '{field.name}'"):
            render(without)


def test_an_undefined_variable_is_an_error_and_values_are_escaped() -> None:
    for source in ("{{ nothing }}", "{% if nothing %}{% endif %}", "{{ table.heads }}"):
        with pytest.raises(UndefinedError):
            templates().from_string(source).render(table=Table((), ()))
    template = templates().from_string("{{ value }}|{{ n }}")
    assert template.render(value="<{{ 7*7 }}>\x1b\t\n", n=3) == "&lt;{{ 7*7 }}&gt;\\x1b\t\n|3"


def test_hidden_characters_in_names_leave_a_chart_readable() -> None:
    svg = line_chart(ATTACK, [Series(ATTACK, [(0, 1.0), (1, 2.0)])]) + bar_chart(ATTACK, {ATTACK: (0.5, 0.1)}, {})
    root = ET.fromstring(f"<charts>{svg}</charts>")  # XML knows no control characters
    assert readable(ATTACK) in {element.text for element in root.iter()}


def test_an_empty_run_has_no_section(tmp_path: Path) -> None:
    assert "<h2>" not in report_html(RunDir(tmp_path))


def test_the_templates_are_installed_with_the_package() -> None:
    root = Path(__file__).parents[2]
    project = tomllib.loads((root / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]["rl"]
    packed = {path for pattern in patterns for path in (root / "rl").glob(pattern)}
    there = {path for path in (root / "rl").glob("**/templates/*") if path.is_file()}
    assert there
    assert there <= packed
