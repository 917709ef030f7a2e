"""Multiple choice: which one option an answer names.

    "B", "(B)", "b.", "**B**", "The answer is B", "Option B", r"\\boxed{\\text{(B)}}"    option B
    "B) 12 km", "B. 12 km"            option B, when the text is that of B or the options are not known
    "12 km"                           the option with this text
    "B or C", "A and B", "B. The text of C", "It could be B", ""                     none

The options of a row: ``choices`` or ``options``, a list of texts (MMLU), letters and texts ({"A": …}), or ARC's
{"label": […], "text": […]}.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from envs.final_answer import clean, normalise, one_answer

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_LONGEST = 4000
_LEAD = re.compile(
    r"(?:(?:so|thus|hence|therefore)\b,?\s+)?(?:(?:the|my)\s+)?(?:(?:final|correct|right|best)\s+)*"
    r"(?:answer|option|choice|letter)\b(?:\s+is\b)?\s*[:=]?\s*",
    re.IGNORECASE,
)
_NAMED = re.compile(
    r"(?P<open>\(|\[)?\s*(?P<label>[A-Za-z]|\d{1,2})\s*(?P<close>\)|\])?(?P<mark>\s*[.:,)]|\s+-)?(?P<rest>.*)", re.S
)
_OTHER = re.compile(r"(?<![A-Za-z'’])(?:\(([A-Za-z])\)|([A-Z])(?![A-Za-z'’]))")


def options_of(row: Mapping[str, Any]) -> dict[str, str]:
    """Label and text of each option, in order; empty when the row has none.

    Raises:
        ValueError: ``choices`` is of no known form.
    """
    given = row.get("choices") if row.get("choices") is not None else row.get("options")
    if given is None:
        return {}
    if isinstance(given, Mapping) and {"text", "label"} <= given.keys():
        return {str(label): str(text) for label, text in zip(given["label"], given["text"], strict=True)}
    if isinstance(given, Mapping):
        return {str(label): str(text) for label, text in given.items() if text is not None}
    if isinstance(given, (list, tuple)) and 0 < len(given) <= len(LETTERS):
        return {letter: _less_label(letter, str(text)) for letter, text in zip(LETTERS, given, strict=False)}
    raise ValueError(f"choices={given!r:.100} of the row: give a list of texts, or labels and texts")


def right_choice(row: Mapping[str, Any], options: Mapping[str, str]) -> str:
    """The label of the right option: ``answer`` is a label, an option's text, or its index from 0 (a number).

    Raises:
        ValueError: it is none of these.
    """
    answer = row.get("answer")
    if isinstance(answer, int) and not isinstance(answer, bool) and str(answer) not in options:
        if 0 <= answer < len(options):
            return list(options)[answer]
    elif answer is not None and (label := chosen(str(answer), options)) is not None:
        return label
    raise ValueError(f"answer={answer!r:.100} of the row names no option: choice needs a letter, a text or an index")


def chosen(answer: str, options: Mapping[str, str]) -> str | None:
    """The label of the one option that an answer names, or None."""
    if len(answer) > _LONGEST:
        return None
    text = clean(one_answer(answer)).strip("*_ ")
    by_text = [label for label, said in options.items() if said.strip() and normalise(clean(said)) == normalise(text)]
    if len(by_text) == 1 and text not in options:
        return by_text[0]
    for _ in range(3):  # "The correct answer is option B"
        text = _LEAD.sub("", text, count=1) if _LEAD.match(text) else text
    text = text.strip("*_ ")
    found = _NAMED.fullmatch(text)
    label = _label(found["label"], options) if found else None
    if (
        found is None
        or label is None
        or bool(found["open"]) > bool(found["close"] or (found["mark"] or "").strip() == ")")
    ):
        return None
    rest = found["rest"].strip("*_ .,:)")
    if not rest:
        return label
    reason = re.match(r"(?:because|since)\b", rest, re.IGNORECASE)
    if not (found["close"] or found["mark"] or reason) or (found["label"].islower() and not found["close"]):
        return None
    if label in options and normalise(clean(rest)) == normalise(clean(options[label])):
        return label
    others = {_label(a or b, options) for a, b in _OTHER.findall(rest)} - {label, None}
    if others or re.match(r"(?:or|and|/|&)\b", rest, re.IGNORECASE):
        return None
    return label if not options or reason else None


def _label(text: str, options: Mapping[str, str]) -> str | None:
    if text in options:
        return text
    return text.upper() if text.upper() in (options or LETTERS[:10]) else None


def _less_label(letter: str, text: str) -> str:
    """Some lists repeat the letter: "A) 12 km"."""
    return re.sub(rf"^\s*\(?{letter}[).:]\s+", "", text)
