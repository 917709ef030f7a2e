"""What stands on the pages: the data of each, and the templates that show it.

Every value is escaped where it is written into a template; a policy's text is never markup. URLs are made here.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any
from urllib.parse import quote, urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined

from rl.tracking.certificates import CERTIFICATE_COLUMNS, certificate_notes, certificate_rows
from rl.tracking.metrics import METRICS
from rl.tracking.samples import readable_message
from rl.tracking.svg import readable, written_value
from rl.tracking.usage import TOKENS
from rl.view.rollout_query import ALL, NONE, SORTS, BadQuery, Finder, Found, Place, Query, is_step, said
from rl.view.run_list import RunLine, Runs
from rl.view.token_text import advantages, find_tokenizer, token_piece
from rl.view.trajectory_index import TrajectoryIndex

_MATCH_AROUND = 60  # characters before and after a text that was looked for
_PREVIEW = 140


@dataclass(frozen=True)
class Chip:
    """A link to a rollout of the same task."""

    url: str
    reward: float | None
    failure: str | None
    tokens: int
    here: bool


@dataclass(frozen=True)
class Row:
    """A line of the list of rollouts. ``text``: (before, match, after)."""

    place: Place
    url: str
    text: tuple[str, str, str]


class Pages:
    """The pages on the runs of one directory. Errors: NotThere for what is not there, BadQuery for a parameter
    that is wrong."""

    def __init__(self, runs: Runs) -> None:
        self.runs = runs
        self._index = TrajectoryIndex()
        self._templates = Environment(
            loader=PackageLoader("rl.view"),
            autoescape=True,
            undefined=StrictUndefined,
            finalize=written_value,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters |= {"reward": reward, "change": change, "ago": ago, "when": when}

    def finder(self, name: str) -> Finder:
        return Finder(self.runs.open(name), self._index)

    def run_list(self, chosen: Sequence[str]) -> str:
        """The first page: all runs, and room for the curves of those that are chosen (else the newest)."""
        lines = self.runs.lines()
        names = {line.name for line in lines}
        shown = [name for name in chosen if name in names] or [line.name for line in lines[:1]]
        return self._render(
            "runs.html.j2", lines=lines, shown=shown, directory=self.runs.directory.absolute(), run_url=run_url,
            missing=[name for name in chosen if name not in names], meanings=json.dumps(METRICS),
        )  # fmt: skip

    def rollouts(self, name: str, params: Mapping[str, str]) -> str:
        """Rollouts of one run that a query finds."""
        finder = self.finder(name)
        query = Query.read(params, finder.files)
        found = finder.page(query)
        return self._render(
            "rollouts.html.j2", run=self.runs.line(finder.run), finder=finder, query=query, found=found,
            rows=[_row(finder, query, place) for place in found.places], page_url=lambda **to: _list(name, query, **to),
            certificates=certificate_rows(self.runs.summary(finder.run)), columns=CERTIFICATE_COLUMNS,
            certificate_notes=certificate_notes(self.runs.summary(finder.run)),
            charts_url=_charts_url(name), sorts=SORTS, choices=_choices(query, found), ALL=ALL, NONE=NONE,
        )  # fmt: skip

    def rollout(self, name: str, params: Mapping[str, str]) -> str:
        """One rollout, its task's others, and its neighbours in the query."""
        finder = self.finder(name)
        place = finder.place(params.get("at", ""))
        query = Query.read(params, finder.files)
        row = place.file.read(place.head)
        before, after, number, count = finder.neighbours(query, place)
        groups = [
            (title, [_chip(finder, query, place, other) for other in finder.same_task(file, place.head)])
            for title, file in _same_task_files(finder, place)
        ]
        terms, scores, details = _parts(row.get("reward_parts") or {})
        usage = row.get("usage") or {}
        return self._render(
            "rollout.html.j2", run=self.runs.line(finder.run), place=place, row=row, query=query, terms=terms,
            scores=scores, details=details, groups=[group for group in groups if group[1]], number=number, count=count,
            before=before and _rollout(name, query, before), after=after and _rollout(name, query, after),
            list_url=_list(name, query), messages=[readable_message(message) for message in row.get("messages") or ()],
            tools=_tools(row.get("messages") or ()), usage=[(kind, usage[kind]) for kind in TOKENS if kind in usage],
            has_tokens=bool(row.get("segments")), tokens_url=f"{run_url(name)}/tokens?{urlencode({'at': place.at})}",
            trained=is_step(place.name),
        )  # fmt: skip

    def tokens(self, name: str, params: Mapping[str, str]) -> dict[str, Any]:
        """A piece of the tokens of one rollout, and the advantage that all its sampled tokens were trained with."""
        finder = self.finder(name)
        place = finder.place(params.get("at", ""))
        segment, start = (_whole(params, key) for key in ("segment", "start"))
        config = self.runs.config(finder.run)
        tokenizer, where = find_tokenizer(finder.run, config)
        piece = token_piece(place.file.read(place.head), segment, start, tokenizer)
        told = asdict(piece) | {"texts": [readable(text) for text in piece.texts]}
        told["note"] = "" if tokenizer else f"no tokenizer.json in {where}: token ids are shown"
        return told | (self._advantage(finder, place, config) if is_step(place.name) else {"advantage": None})

    def _advantage(self, finder: Finder, place: Place, config: Mapping[str, Any]) -> dict[str, Any]:
        group = finder.same_task(place.name, place.head)
        norm = (config.get("objective") or {}).get("advantage_norm", "mean")
        values = advantages([(one.head.reward, one.head.failure) for one in group], norm)
        valid = [one.head.reward for one in group if one.head.failure is None and one.head.reward is not None]
        return {
            "advantage": None if place.head.failure else values[[one.at for one in group].index(place.at)],
            "largest": max(map(abs, values), default=0.0),
            "reward": place.head.reward,
            "group_mean": sum(valid) / len(valid) if valid else None,
            "norm": norm,
        }

    def error(self, status: int, said: str) -> str:
        return self._render("error.html.j2", status=status, said=said)

    def _render(self, template: str, **values: Any) -> str:
        return self._templates.get_template(template).render(**values)


def run_url(name: str) -> str:
    return f"/run/{quote(name, safe='')}"


def told_line(line: RunLine) -> dict[str, Any]:
    """A run's line for the script that keeps the list current: texts as the page shows them."""
    return {
        "name": line.name, "state": line.state, "steps": steps_text(line), "before": reward(line.before),
        "after": reward(line.after), "change": change(line), "changed": ago(line.changed),
    }  # fmt: skip


def steps_text(line: RunLine) -> str:
    if line.step is None:
        return "–"
    return f"{line.step} / {line.steps}" if line.steps else f"{line.step}"


def reward(value: float | None) -> str:
    """Three digits, with a true minus sign; no value is a dash."""
    return "–" if value is None else f"{value:z.3f}".replace("-", "−")


def change(line: RunLine) -> str:
    return "" if line.before is None or line.after is None else f"{line.after - line.before:+.3f}".replace("-", "−")


def ago(changed: float) -> str:
    """``12 min ago``."""
    seconds = max(0.0, time.time() - changed)
    for unit, size, limit in (("s", 1, 100), ("min", 60, 6000), ("h", 3600, 172800)):
        if seconds < limit:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{seconds / 86400:.0f} days ago"


def when(changed: float) -> str:
    return datetime.fromtimestamp(changed).strftime("%Y-%m-%d %H:%M:%S")


def _list(name: str, query: Query, **changes: Any) -> str:
    said = query.url(**changes)
    return run_url(name) + (f"?{said}" if said else "")


def _rollout(name: str, query: Query, place: Place) -> str:
    """URL of a rollout; it remembers the query that led there."""
    return f"{run_url(name)}/rollout?{urlencode({'at': place.at})}&{query.url()}"


def _charts_url(name: str) -> str:
    return f"/?{urlencode({'run': name})}"


def _choices(query: Query, found: Found) -> dict[str, list[tuple[str, str]]]:
    """(value, text) of what can be chosen; what the URL asks for is among it even where no rollout has it."""
    made = {}
    for name, counted in (("family", found.families), ("stop", found.stops), ("failure", found.failures)):
        wanted = getattr(query, name)
        values = sorted({*counted, *([wanted] if wanted and (name, wanted) not in _WORDS else [])})
        made[name] = [(value, f"{value} ({counted[value]:,})") for value in values]
    return made


_WORDS = {("failure", ALL), ("failure", NONE)}


def _row(finder: Finder, query: Query, place: Place) -> Row:
    row = place.file.read(place.head)
    return Row(place, _rollout(finder.run.name, query, place), _match(row, query.text) or ("", "", _last_words(row)))


def _match(row: Mapping[str, Any], text: str) -> tuple[str, str, str] | None:
    """The first place where the rollout says ``text``, with what stands around it."""
    if not text:
        return None
    for one in said(row):
        at = one.lower().find(text.lower())
        if at >= 0:
            end = at + len(text)
            start = max(0, at - _MATCH_AROUND)
            before = ("…" if start else "") + one[start:at]
            return before, one[at:end], one[end : end + _MATCH_AROUND] + ("…" if end + _MATCH_AROUND < len(one) else "")
    return None


def _last_words(row: Mapping[str, Any]) -> str:
    """What the policy said last, in one line."""
    for message in reversed(row.get("messages") or ()):
        if message.get("role") == "assistant":
            shown = readable_message(message)
            text = shown.content or " ".join(shown.calls) or shown.reasoning or shown.parse_error
            text = " ".join(text.split())
            return text[:_PREVIEW] + ("…" if len(text) > _PREVIEW else "")
    return ""


def _same_task_files(finder: Finder, place: Place) -> list[tuple[str, str]]:
    """(title, file) of the files in which the rollout's task is looked for: its own, and the two evaluations."""
    own = "Group of this task" if is_step(place.name) else f"Same task in {place.name}"
    evaluations: list[tuple[str, str]] = [
        (f"Same task in {name}", name) for name in ("eval_before", "eval_after") if name in finder.files
    ]
    if place.name in ("eval_before", "eval_after"):
        return evaluations
    return [(own, place.name), *evaluations]


def _chip(finder: Finder, query: Query, here: Place, other: Place) -> Chip:
    head = other.head
    url = _rollout(finder.run.name, query, other)
    return Chip(url, head.reward, head.failure, head.tokens, other.at == here.at)


def _parts(parts: Mapping[str, float | None]) -> tuple[list[tuple[str, float | None]], ...]:
    """The weighted terms, whose sum is the reward; raw scores of the environment; details of parts."""
    terms = [(name, value) for name, value in parts.items() if "/" not in name]
    scores = [(name.removeprefix("score/"), value) for name, value in parts.items() if name.startswith("score/")]
    details = [(name, value) for name, value in parts.items() if "/" in name and not name.startswith("score/")]
    return terms, scores, details


def _tools(messages: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """(name, schema) of the tools on offer."""
    tools = [tool for message in messages for tool in message.get("tools") or ()]
    return [(str(tool.get("name", "?")), json.dumps(tool, indent=2, ensure_ascii=False)) for tool in tools]


def _whole(params: Mapping[str, str], name: str) -> int:
    text = params.get(name) or "0"
    if not (text.isdigit() and len(text) < 10):
        raise BadQuery(f"{name}='{text}': must be a number from 0 on")
    return int(text)
