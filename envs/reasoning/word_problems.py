r"""Word problems in English: a story, a chain of events that change one quantity, and a question about the result.

    In a board game Mara has 240 points after the first round. The board has 61 fields. A magic card multiplies all
    points by 3. The dragon takes a quarter of the points. How many points does Mara have in the end?      -> 540

Level 1 has 2 or 3 steps (the question counts as one when it needs a calculation), level 2 up to 4, level 3 up to 6,
level 4 up to 8; from level 2 on, sentences with irrelevant numbers come in between.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

from envs.reasoning.stories import STORIES, Story
from envs.words import FIRST_NAMES

_STEPS = {1: (2, 3), 2: (3, 4), 3: (5, 6), 4: (7, 8)}
_START = {1: (20, 60), 2: (40, 150), 3: (80, 300), 4: (100, 600)}  # times 20: so that parts and percents come out whole
_PARTS = {2: "half", 3: "a third", 4: "a quarter", 5: "a fifth"}
_PERCENTS = (5, 10, 15, 20, 25, 30, 40, 50, 60, 75)
_HIGHEST = 10**6


@dataclass(frozen=True)
class WordProblem:
    """``steps`` are the operations with their numbers, first to last; ``answer`` is a whole number, decimal or p/q."""

    kind: str
    text: str
    answer: str
    steps: tuple[tuple[str, tuple[Fraction, ...]], ...]


def word_problem(rng: random.Random, level: int, kind: str | None = None) -> WordProblem:
    """A problem of a random story (or of the one that is called ``kind``) and of a level from 1 to 4."""
    if level not in _STEPS:
        raise ValueError(f"level is {level}, must be one of {', '.join(map(str, _STEPS))}")
    stories = [story for story in STORIES if kind in (None, story.name)]
    if not stories:
        raise ValueError(f"kind is {kind!r}; known stories: {', '.join(story.name for story in STORIES)}")
    while True:
        made = _tell(rng, level, rng.choice(stories))
        if made is not None:
            return made


def _tell(rng: random.Random, level: int, story: Story) -> WordProblem | None:
    """One try; None when no event fits any more."""
    name = rng.choice(FIRST_NAMES)
    start = 20 * rng.randint(*_START[level])
    value = Fraction(start)
    finish, ask = rng.choice(story.finishes)
    count = rng.randint(*_STEPS[level]) - (finish != "count")
    sentences, steps = [story.opening.format(name=name, x=start)], []
    left = list(story.events)
    for _ in range(count):
        rng.shuffle(left)
        for event in left:
            drawn = _draw(rng, event[0], value)
            if drawn is not None:
                break
        else:
            return None
        left.remove(event)
        numbers, words = drawn
        value = apply(event[0], value, numbers)
        steps.append((event[0], numbers))
        text = event[1].format(name=name, **words)
        sentences.append(text[0].upper() + text[1:])
    drawn = _draw(rng, finish, value)
    if drawn is None:
        return None
    value = apply(finish, value, drawn[0])
    if finish != "count":
        steps.append((finish, drawn[0]))
    for distractor in rng.sample(story.distractors, min(level - 1, len(story.distractors))):
        sentences.insert(rng.randint(1, len(sentences)), distractor.format(name=name, n=rng.randint(3, 95)))
    sentences.append(ask.format(name=name, **drawn[1]))
    return WordProblem(story.name, " ".join(sentences), written(value), tuple(steps))


def _draw(rng: random.Random, operation: str, x: Fraction) -> tuple[tuple[Fraction, ...], dict[str, str]] | None:
    """Numbers for an operation on x and the words that stand for them; None when it does not fit x."""
    most = int(x)
    if operation in ("part", "only"):
        fitting = [d for d in _PARTS if most % d == 0 and most // d >= 5]
        if not fitting:
            return None
        d = rng.choice(fitting)
        return (Fraction(d),), {"part": _PARTS[d], "Part": _PARTS[d].capitalize()}
    if operation in ("percent_on", "percent_off"):
        fitting = [p for p in _PERCENTS if most * p % 100 == 0 and most >= 10]
        if not fitting:
            return None
        p = rng.choice(fitting)
        return (Fraction(p),), {"p": str(p)}
    if operation == "price":
        price = Fraction(rng.randint(3, 95), 20)  # multiples of 5 cents
        return (price,), {"price": written(price)}
    if operation == "times":
        k = rng.randint(2, 5)
        return ((Fraction(k),), {"k": str(k)}) if most * k < _HIGHEST else None
    if operation in ("full", "rest", "share"):
        k = rng.randint(3, 24)
        return ((Fraction(k),), {"k": str(k)}) if most > 2 * k else None
    if operation in ("add_k", "take_k"):
        k = rng.randint(2, 12)
        n = rng.randint(2, max(3, most // (2 * k)) if operation == "take_k" else 60)
        return (
            ((Fraction(k), Fraction(n)), {"k": str(k), "n": str(n)})
            if operation == "add_k" or k * n < most - 5
            else None
        )
    if operation == "count":
        return (), {}
    if operation == "more":
        n = most + rng.randint(10, 400)
        return (Fraction(n),), {"n": str(n)}
    high = most // 2 if operation == "take" else max(20, most // 2)
    if high < 5:
        return None
    n = rng.randint(3, high)
    return (Fraction(n),), {"n": str(n)}


_OPERATIONS: dict[str, Callable[..., Fraction]] = {
    "add": lambda x, n: x + n,
    "take": lambda x, n: x - n,
    "add_k": lambda x, k, n: x + k * n,
    "take_k": lambda x, k, n: x - k * n,
    "times": lambda x, k: x * k,
    "part": lambda x, d: x - x / d,
    "only": lambda x, d: x / d,
    "percent_on": lambda x, p: x + x * p / 100,
    "percent_off": lambda x, p: x - x * p / 100,
    "price": lambda x, price: x * price,
    "full": lambda x, k: Fraction(x // k),
    "rest": lambda x, k: x % k,
    "share": lambda x, k: x / k,
    "more": lambda x, n: abs(n - x),
    "count": lambda x: x,
}


def apply(operation: str, x: Fraction, numbers: tuple[Fraction, ...]) -> Fraction:
    """The quantity after an operation."""
    return _OPERATIONS[operation](x, *numbers)


def written(value: Fraction) -> str:
    """``12``, ``12.5`` when two decimals are enough, else ``p/q``."""
    if value.denominator == 1:
        return str(value.numerator)
    if 100 % value.denominator == 0:
        hundredths = int(value * 100)
        return f"{hundredths // 100}.{hundredths % 100:02d}".rstrip("0")
    return f"{value.numerator}/{value.denominator}"
