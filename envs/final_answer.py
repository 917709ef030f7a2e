r"""The final answer in a message of prose: the content of the last ``\boxed{}``, else the last line.

    "… so there are \boxed{1{,}250} of them."   ->  "1{,}250", cleaned: "1,250"
    "Adding up.\n**Answer:** 12 km"             ->  "12 km"

One message gives one answer: listing several candidates gives none of them a chance, since only the last counts.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

SUFFIX = r"Please reason step by step, and put your final answer within \boxed{}."

_BOX_OR_BRACE = re.compile(r"(\\(?:boxed|fbox)\s*\{)|[{}]")
_LABEL = re.compile(
    r"^\W*(?:(?:so|thus|hence|therefore|and|then)\b\W*)?(?:(?:the|my|our)\s+)?(?:(?:final|correct|right)\s+)?answer"
    r"(?:\s+is)?[\s*_]*[:=]?\s*",
    re.IGNORECASE,
)
_BETWEEN = re.compile(
    r"(?:[\s$,;]|\\text\s*\{\s*(?:and|or)\s*\}|\\(?:q?quad|lor|vee|[,; ()\[\]])|\b(?:and|or)\b){0,20}"
)
_WRAPPER = re.compile(r"\\(?:text|textbf|mathrm|mathbf|mathit|operatorname|texttt)\s*\{([^{}]*)\}")
_NUMBER = re.compile(r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d{1,3})?")
_FRACTION = re.compile(r"([-+]?\d+)\s*/\s*(\d+)")
_MINUS = str.maketrans({"−": "-", "–": "-", "﹣": "-", "＋": "+", "\u00a0": " ", "\u202f": " ", "\u2009": " "})
_UNIT = re.compile(r"(.*\d)\s*+((?:[A-Za-z°]++\.?\s*+){1,2})")  # possessive: one way to read a word
_NO_UNITS = {"or", "and", "to", "of", "percent", "hundred", "thousand", "million", "billion", "dozen", "half"}
_MAX_NESTED = 20  # \text{\text{…}}: each layer is another pass
_MAX_DIGITS = 400  # of a number that is read: nobody's answer is longer, and int() of a million digits is slow


def boxed(text: str) -> str | None:
    r"""The content of the last complete ``\boxed{...}``, braces balanced; None without one."""
    boxes = _boxes(text)
    return text[boxes[-1][1] : boxes[-1][2]].strip() if boxes else None


def one_answer(text: str) -> str:
    r"""What a text says the answer to an exercise is: the last box; without one the last line, less a label ("The
    answer is", GSM8K's ``####``). Boxes with nothing between them but "or", "and" and commas are a list: "a or b"."""
    boxes = _boxes(text)
    if not boxes:
        return last_line(text)
    start, inside, end = boxes[-1]
    parts = [text[inside:end].strip()]
    for before, inside, end in reversed(boxes[:-1]):
        if end > start:  # a box around this one
            start = before
            continue
        if start - end > 41 or not _BETWEEN.fullmatch(text[end + 1 : start]):
            break
        start = before
        if (part := text[inside:end].strip()) not in parts:
            parts.insert(0, part)
    return " or ".join(parts)


def _boxes(text: str) -> list[tuple[int, int, int]]:
    """(where its command starts, its content starts, its content ends) of every complete box, by its start."""
    opened: list[tuple[int, int] | None] = []
    found = []
    for match in _BOX_OR_BRACE.finditer(text):
        if match[0] != "}":
            opened.append((match.start(), match.end()) if match[1] else None)
        elif opened and (box := opened.pop()) is not None:
            found.append((*box, match.start()))
    return sorted(found)


def final_answer(text: str) -> str:
    """The last box; without one the whole text less a label like "Answer:". Not cleaned: layout may matter."""
    inside = boxed(text)
    return inside if inside is not None else _LABEL.sub("", text.strip(), count=1).strip("*` \n")


def last_line(text: str) -> str:
    """The last box; without one the last line that says something, less its label ("Answer:", GSM8K's ``####``)."""
    inside = boxed(text)
    if inside is not None:
        return inside
    lines = [line for line in text.splitlines() if line.strip()]
    return _LABEL.sub("", lines[-1].rpartition("####")[2].strip(), count=1).strip("*` ") if lines else ""


def clean(answer: str) -> str:
    """An answer without typography: LaTeX wrappers and spacing, odd minus signs and spaces, dollar signs, bold."""
    answer = unicodedata.normalize("NFC", answer).translate(_MINUS)
    for _ in range(_MAX_NESTED):
        answer, found = _WRAPPER.subn(r"\1", answer)
        if not found:
            break
    answer = re.sub(r"\\(?:[,;:! ()\[\]]|quad|qquad|left|right|displaystyle)(?![A-Za-z])", " ", answer)
    for written, meant in (("\\%", "%"), ("\\$", "$"), ("{,}", ","), ("\\_", "_"), ("\\{", "{"), ("\\}", "}")):
        answer = answer.replace(written, meant)
    return answer.strip().strip("$*`").strip().removesuffix(".").strip()


def number(answer: str) -> Fraction | None:
    r"""The one number that an answer is: ``1,250``, ``-3/4``, ``\frac{3}{4}``, ``12.50``; else None.

    Exact, so that ``0.1`` is one tenth. Thousands may be separated by commas; units are not read.
    """
    text = clean(answer).replace("$", "").strip()
    text = re.sub(r"\\d?frac\s*\{\s*([-+]?\d+)\s*\}\s*\{\s*(\d+)\s*\}", r"\1/\2", text)
    if re.fullmatch(r"[-+]?\d{1,3}(?:,\d{3})+(?:\.\d+)?", text):
        text = text.replace(",", "")
    if len(text) > _MAX_DIGITS:
        return None
    ratio = _FRACTION.fullmatch(text)
    if ratio:
        return Fraction(int(ratio[1]), int(ratio[2])) if int(ratio[2]) else None
    return Fraction(text) if _NUMBER.fullmatch(text) else None


def without_unit(answer: str) -> str:
    """``12 apples`` -> ``12``, ``$4.50 a day`` -> ``4.50``: an answer less one or two words of unit at its end."""
    text = clean(answer)
    found = _UNIT.fullmatch(text)
    if found is None or any(word.strip(".").lower() in _NO_UNITS for word in found[2].split()):
        return text
    return found[1]


def normalise(answer: str) -> str:
    """An answer for comparison: lower case, no quotes, no outer punctuation, single spaces."""
    kept = "".join(" " if c in "\"'`“”‘’«»" else c for c in answer.casefold())
    return " ".join(kept.split()).strip(" .,;:!?")


def state_matches(state: Mapping[str, Any], goal: Mapping[str, Any]) -> dict[str, float]:
    """The state verifier: ``outcome`` is 1 when every key of ``goal`` has its value in ``state``; ``goal_met`` is the
    share that has. Keys may be paths ("orders.17.status"); numbers are compared as numbers, all else by equality.

    Raises:
        ValueError: the goal is empty, so that doing nothing would meet it.
    """
    if not goal:
        raise ValueError("the goal is empty: give at least one key and its value")
    met = sum(same_value(_at(state, path), wanted) for path, wanted in goal.items())
    return {"outcome": float(met == len(goal)), "goal_met": met / len(goal)}


_MISSING = object()


def _at(state: Any, path: str) -> Any:
    """The value at a path of keys and list positions, or ``_MISSING``."""
    if isinstance(state, Mapping) and path in state:
        return state[path]
    for key in path.split("."):
        if isinstance(state, Mapping) and key in state:
            state = state[key]
        elif isinstance(state, (list, tuple)) and key.isdecimal() and int(key) < len(state):
            state = state[int(key)]
        else:
            return _MISSING
    return state


def same_value(given: Any, wanted: Any) -> bool:
    """Equal values: numbers within 1e-9 relative, everything else of the same type and equal."""
    numbers = [isinstance(x, (int, float)) and not isinstance(x, bool) for x in (given, wanted)]
    if all(numbers):
        try:
            return given == wanted or math.isclose(given, wanted, rel_tol=1e-9, abs_tol=1e-12)
        except OverflowError:  # an integer beyond what a float holds
            return False
    return type(given) is type(wanted) and bool(given == wanted)
