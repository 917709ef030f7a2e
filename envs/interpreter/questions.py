"""The questions of the interpreter family, with the calls that answer them.

Three kinds, easiest first:

* arithmetic   ``What is 47 * 38 + 9?`` — the call repeats the question's expression;
* data         ``What is the sum of the list data?`` — the list is only in the session: a guess is right
               by luck alone;
* two calls    ``First set x to 47 * 38; then give x + 9.`` — the second call uses what the first left behind.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

# English -> Python. Asked of ``data``; the Python is a fixed text.
_LIST_CODE: dict[str, str] = {
    "the sum of the list data": "sum(data)",
    "the largest number in the list data": "max(data)",
    "the smallest number in the list data": "min(data)",
    "the length of the list data": "len(data)",
    "the first number in the list data": "data[0]",
    "the last number in the list data": "data[-1]",
}
_LIST_VALUE: dict[str, Callable[[Sequence[int]], int]] = {
    "sum(data)": sum,
    "max(data)": max,
    "min(data)": min,
    "len(data)": len,
    "data[0]": lambda data: data[0],
    "data[-1]": lambda data: data[-1],
}
_OTHER_SIGN = {"+": "-", "-": "+", "*": "+"}


@dataclass(frozen=True)
class Question:
    """``calls`` are run in order; the last prints the ``answer``. No list: ``data`` is empty."""

    kind: str
    text: str
    calls: tuple[str, ...]
    answer: int
    data: tuple[int, ...] = ()


def random_question(rng: random.Random, kinds: dict[str, float]) -> Question:
    """A question of a kind drawn by weight."""
    kind = rng.choices(list(kinds), weights=list(kinds.values()))[0]
    return _MAKERS[kind](rng)


def mistaken_call(code: str, rng: random.Random) -> str:
    """The call with a wrong operation: another sign, or another question about the list."""
    for other in rng.sample(list(_LIST_VALUE), len(_LIST_VALUE)):
        right = next((known for known in _LIST_VALUE if known in code), None)
        if right is not None and other != right:
            return code.replace(right, other)
    signs = [match.start() for match in re.finditer(r"(?<= )[-+*](?= )", code)]
    at = rng.choice(signs)
    return code[:at] + _OTHER_SIGN[code[at]] + code[at + 1 :]


def _expression(rng: random.Random) -> tuple[str, int]:
    a, b, c = (rng.randint(11, 99) for _ in range(3))
    if rng.random() < 0.5:
        a = rng.randint(100, 999)
    shape = rng.randrange(4)
    if shape == 0:
        return f"{a} * {b}", a * b
    if shape == 1:
        return f"{a} * {b} + {c}", a * b + c
    if shape == 2:
        return f"{a} * {b} - {c}", a * b - c
    return f"{a} + {b} + {c}", a + b + c


def _arithmetic(rng: random.Random) -> Question:
    text, value = _expression(rng)
    return Question("arithmetic", f"What is {text}?", (text,), value)


def _about_list(rng: random.Random) -> tuple[str, str, int, tuple[int, ...]]:
    data = tuple(rng.randint(10, 999) for _ in range(rng.randint(5, 14)))
    english = rng.choice(list(_LIST_CODE))
    code = _LIST_CODE[english]
    return english, code, int(_LIST_VALUE[code](data)), data


def _data(rng: random.Random) -> Question:
    english, code, value, data = _about_list(rng)
    return Question("data", f"What is {english}?", (code,), value, data)


def _two_calls(rng: random.Random) -> Question:
    data: tuple[int, ...] = ()
    if rng.random() < 0.5:
        english, code, x, data = _about_list(rng)
    else:
        code, x = _expression(rng)
        english = code
    c = rng.randint(11, 99)
    sign = rng.choice("+-*" if abs(x) < 1000 else "+-")  # at most six digits to copy
    answer = {"+": x + c, "-": x - c, "*": x * c}[sign]
    text = f"First set x to {english}; then give x {sign} {c}."
    return Question("two_calls", text, (f"x = {code}", f"x {sign} {c}"), answer, data)


_MAKERS = {"arithmetic": _arithmetic, "data": _data, "two_calls": _two_calls}
KINDS = tuple(_MAKERS)
