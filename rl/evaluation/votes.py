"""What a sample answered, so that a majority can be counted: read from a stored dialogue, by the environments' rules.

A vote is the last assistant message that calls no tool, as ``Episode.answer`` is. Two votes are the same answer when
their keys are equal: the box or the labelled last line is taken out, numbers are compared as numbers (``1,250`` =
``1250.0``, ``0.5`` = ``1/2``), a unit behind a number is dropped, everything else is compared as environments compare
text (case, quotes, spaces, outer punctuation).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from envs.final_answer import boxed, clean, final_answer, last_line, normalise, number, without_unit


def answer_of(messages: Sequence[Mapping[str, Any]]) -> str | None:
    """The final answer in ``Trajectory.messages``; None when the last assistant message calls a tool, is malformed,
    was cut off, or says nothing."""
    for message in reversed(messages):
        if message["role"] == "assistant":
            if message.get("tool_calls") or message.get("parse_error"):
                return None
            return str(message["content"]).strip() or None
    return None


def answer_key(answer: str) -> str:
    """What counts as the same answer."""
    text = clean(_one(answer))
    value = number(text)
    if value is None:
        value = number(without_unit(text))
    return str(value) if value is not None else normalise(text)


def _one(answer: str) -> str:
    """The box; else the last line if it is labelled ("Answer: …"); else all of it, which may be code."""
    lines = [line.strip("*` ") for line in answer.strip().splitlines() if line.strip()]
    if boxed(answer) is None and len(lines) > 1 and (last := last_line(answer)) != lines[-1]:
        return last
    return final_answer(answer)
