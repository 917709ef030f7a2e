"""Rubrics, and what a judge says about them: read strictly, because a wrong number is worse than none.

A reply is used when it is one JSON object with a whole number in range for every criterion and for nothing else.
Everything else is ``Unusable``, with the kind of problem and words for the judge.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

PROBLEMS = {
    "nonsense": "no JSON object with scores in it",
    "cut_off": "it ended before the object did",
    "missing": "a criterion has no score",
    "unknown": "a score for something that is no criterion",
    "wrong_type": "a score that is no whole number",
    "out_of_range": "a score outside 0 to its points",
    "contradictory": "the same criterion is scored twice, differently",
    "too_long": "more than MAX_REPLY characters",
}
MAX_REPLY = 20_000  # characters
MAX_POINTS = 10
MAX_CRITERIA = 20
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,39}")


class Unusable(Exception):
    """A reply that cannot be used. ``kind`` is one of ``PROBLEMS``, or "no_reply" when there is none."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind


@dataclass(frozen=True)
class Criterion:
    """One line of a rubric. ``key`` is its name in the judge's reply and in the metrics."""

    key: str
    criterion: str
    weight: float = 1.0
    points: int = 2  # highest score; 0 is the lowest


def read_rubric(raw: Any, where: str) -> tuple[Criterion, ...]:
    """Criteria from ``[{criterion, weight, points, name}, ...]``; only ``criterion`` is needed.

    Raises:
        ValueError: names ``where``, the criterion and the field.
    """
    if not isinstance(raw, (list, tuple)) or not raw:
        raise ValueError(f"{where} is empty: give a list of {{criterion, weight, points}}")
    if len(raw) > MAX_CRITERIA:
        raise ValueError(f"{where} has {len(raw)} criteria; at most {MAX_CRITERIA}")
    criteria = tuple(_criterion(i, one, where) for i, one in enumerate(raw, 1))
    keys = [c.key for c in criteria]
    if repeated := sorted({key for key in keys if keys.count(key) > 1}):
        raise ValueError(f"{where}: name '{repeated[0]}' is used twice")
    return criteria


def _criterion(number: int, raw: Any, where: str) -> Criterion:
    at = f"{where}[{number - 1}]"
    if isinstance(raw, str):
        raw = {"criterion": raw}
    try:
        fields = dict(raw)
    except (TypeError, ValueError):
        raise ValueError(f"{at} is {raw!r:.100}: give {{criterion, weight, points}}") from None
    if unknown := sorted(set(fields) - {"criterion", "weight", "points", "name"}, key=str):
        raise ValueError(f"{at} has an unknown field {unknown[0]!r}; a criterion has criterion, weight, points, name")
    text, weight, points = fields.get("criterion"), fields.get("weight", 1.0), fields.get("points", 2)
    key = fields.get("name", f"c{number}")
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"{at}.criterion={text!r:.100}: say in words what is looked for")
    if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 < weight < math.inf:
        raise ValueError(f"{at}.weight={weight!r}: give a number above 0")
    if isinstance(points, bool) or not isinstance(points, int) or not 1 <= points <= MAX_POINTS:
        raise ValueError(f"{at}.points={points!r}: give a whole number from 1 to {MAX_POINTS}")
    if not isinstance(key, str) or not _NAME.fullmatch(key):
        raise ValueError(f"{at}.name={key!r:.60}: use a letter, then at most 39 letters, digits, _ or -")
    return Criterion(key, text.strip(), float(weight), points)


def schema_of(criteria: Sequence[Criterion], reason_chars: int) -> dict[str, Any]:
    """JSON schema of a verdict. The reason comes first: a judge that has to explain before it scores scores better.

    Reasons hold no quotation marks, backslashes or control characters, so that each character is one of the text: then
    a limit in characters bounds the tokens, and no escape sequence can go wrong.
    """
    scores = {c.key: {"type": "integer", "enum": list(range(c.points + 1))} for c in criteria}
    return {
        "type": "object",
        "properties": {
            "reason": {"type": "string", "pattern": f'^[^"\\\\\\x00-\\x1f]{{0,{reason_chars}}}$'},
            "scores": {
                "type": "object",
                "properties": scores,
                "required": list(scores),
                "additionalProperties": False,
            },
        },
        "required": ["reason", "scores"],
        "additionalProperties": False,
    }


def read_verdict(text: str, criteria: Sequence[Criterion], *, cut_off: bool = False) -> dict[str, int]:
    """Criterion → points from a judge's reply. Prose around the object is allowed, also a thinking part before it.

    Raises:
        Unusable: says what is wrong, in words meant for the judge.
    """
    if len(text) > MAX_REPLY:
        raise Unusable("too_long", f"it had {len(text)} characters")
    # A constrained reply begins with its object; </think> can only be inside a reason then.
    said = text if text.lstrip().startswith("{") else text.rpartition("</think>")[2]
    found = [scores for scores in map(_scores_of, _objects(said)) if scores is not None]
    if not found:
        if cut_off:
            raise Unusable("cut_off", "it was cut off before the JSON object was complete; be shorter")
        raise Unusable("nonsense", 'it held no JSON object with an object "scores"')
    verdicts = [_checked(pairs, criteria) for pairs in found]
    if any(verdict != verdicts[0] for verdict in verdicts):
        raise Unusable("contradictory", "it held several JSON objects with different scores")
    return verdicts[0]


class _Pairs(list[tuple[str, Any]]):
    """A JSON object with its repeated keys."""


def _objects(text: str) -> list[_Pairs]:
    """The outermost JSON objects in ``text``."""
    decoder = json.JSONDecoder(object_pairs_hook=_Pairs, strict=False)
    objects, at = [], 0
    while (at := text.find("{", at)) >= 0:
        try:
            value, at = decoder.raw_decode(text, at)
            objects.append(value)
        except (ValueError, RecursionError):
            at += 1
    return objects


def _scores_of(pairs: _Pairs) -> _Pairs | None:
    """The pairs of its "scores"; all of them when it has several."""
    values = [value for key, value in pairs if key == "scores" and isinstance(value, _Pairs)]
    return _Pairs(pair for value in values for pair in value) if values else None


def _checked(pairs: _Pairs, criteria: Sequence[Criterion]) -> dict[str, int]:
    points = {c.key: c.points for c in criteria}
    scores: dict[str, int] = {}
    for key, value in pairs:
        if key not in points:
            raise Unusable("unknown", f"it scored {key[:40]!r}, which is no criterion; score {', '.join(points)}")
        whole = isinstance(value, int) and not isinstance(value, bool)
        if isinstance(value, float) and math.isfinite(value) and value == int(value):
            value, whole = int(value), True
        if not whole:
            raise Unusable(
                "wrong_type", f"the score of {key} was {json.dumps(value, default=str)[:40]}, not a whole number"
            )
        if not 0 <= value <= points[key]:
            raise Unusable("out_of_range", f"the score of {key} was {str(value)[:20]}; it goes from 0 to {points[key]}")
        if scores.setdefault(key, value) != value:
            raise Unusable("contradictory", f"it scored {key} twice, with {scores[key]} and {value}")
    if missing := [key for key in points if key not in scores]:
        raise Unusable("missing", f"it gave no score for {', '.join(missing)}")
    return scores
