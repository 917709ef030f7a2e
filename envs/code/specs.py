"""What a function is to compute: a small grammar of arithmetic, in English, in Python and as a value.

    spec  := base ", " step [", " step]        a times b, minus 4, doubled
    base  := a plus b | the larger of a and b | …
    step  := plus N | minus N | times N | squared | doubled

The English is what the task says; the Python is the demonstrators' answer; ``value`` is the judge's own
reading of the grammar, so that no code has to be run to know what is right.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

# English, Python, value. Each Python text is closed: a step can follow it without more parentheses.
_BASES: dict[str, tuple[str, Callable[[int, int], int]]] = {
    "a plus b": ("(a + b)", lambda a, b: a + b),
    "a minus b": ("(a - b)", lambda a, b: a - b),
    "b minus a": ("(b - a)", lambda a, b: b - a),
    "a times b": ("(a * b)", lambda a, b: a * b),
    "the larger of a and b": ("max(a, b)", max),
    "the smaller of a and b": ("min(a, b)", min),
    "the remainder of a divided by b": ("(a % b)", lambda a, b: a % b),
}
# name -> (English, Python, value, largest N); N is 0 for the steps that take none.
_STEPS: dict[str, tuple[str, str, Callable[[int, int], int], int]] = {
    "plus": ("plus {n}", "{x} + {n}", lambda x, n: x + n, 20),
    "minus": ("minus {n}", "{x} - {n}", lambda x, n: x - n, 20),
    "times": ("times {n}", "{x} * {n}", lambda x, n: x * n, 9),
    "squared": ("squared", "{x} ** 2", lambda x, n: x * x, 0),
    "doubled": ("doubled", "{x} * 2", lambda x, n: 2 * x, 0),
}
# The step that a mistaken programmer writes instead.
_MISTAKEN = {"plus": "minus", "minus": "plus", "times": "plus", "squared": "doubled", "doubled": "squared"}


@dataclass(frozen=True)
class Spec:
    """One function of two integers. ``steps`` are (name, N) pairs, one or two of them."""

    base: str
    steps: tuple[tuple[str, int], ...]

    def english(self) -> str:
        return ", ".join([self.base, *(_STEPS[name][0].format(n=n) for name, n in self.steps)])

    def code(self) -> str:
        """The function in one line; every step but the last is in parentheses, whatever its precedence."""
        text = _BASES[self.base][0]
        for position, (name, n) in enumerate(self.steps):
            text = _STEPS[name][1].format(x=f"({text})" if position else text, n=n)
        return f"def f(a, b): return {text}"

    def value(self, a: int, b: int) -> int:
        x = _BASES[self.base][1](a, b)
        for name, n in self.steps:
            x = _STEPS[name][2](x, n)
        return x


def random_spec(rng: random.Random, two_step_share: float) -> Spec:
    """A spec with one step, or two with the given probability."""
    count = 2 if rng.random() < two_step_share else 1
    return Spec(rng.choice(list(_BASES)), tuple(_random_step(rng) for _ in range(count)))


def mistaken(spec: Spec, rng: random.Random) -> Spec:
    """A plausible mistake: a wrong number, step or first operation. Never ``spec`` itself."""
    position = rng.randrange(len(spec.steps))
    name, n = spec.steps[position]
    kind = rng.choice(["number", "step", "base"] if _STEPS[name][3] else ["step", "base"])
    if kind == "base":
        return replace(spec, base=rng.choice([base for base in _BASES if base != spec.base]))
    if kind == "number":
        step = (name, rng.choice([m for m in range(2, _STEPS[name][3] + 1) if m != n]))
    else:
        step = (_MISTAKEN[name], n)
    return replace(spec, steps=(*spec.steps[:position], step, *spec.steps[position + 1 :]))


def random_inputs(rng: random.Random, count: int) -> tuple[tuple[int, int], ...]:
    """``count`` different pairs of different numbers 1-9; the first has a > b and the second a < b, so that
    the larger and the smaller, or a minus b and b minus a, are told apart by the first two."""
    pairs = [(a, b) for a in range(1, 10) for b in range(1, 10) if a != b]
    first = rng.choice([p for p in pairs if p[0] > p[1]])
    second = rng.choice([p for p in pairs if p[0] < p[1]])
    rest = [p for p in pairs if p not in (first, second)]
    return (first, second, *rng.sample(rest, count - 2))


def _random_step(rng: random.Random) -> tuple[str, int]:
    name = rng.choice(list(_STEPS))
    largest = _STEPS[name][3]
    return name, rng.randint(2, largest) if largest else 0
