"""Short exercises for a small chat model: one kind of question, worked examples as earlier turns, an exact answer.

    last     last of lemon, river, stone, horse:                    horse
    upper    river in capitals:                                     RIVER
    who      Anna lives in Paris, Ben in Rome. Who lives in Rome?   Ben
    add      4 + 3 =                                                7
    larger   larger of 34 and 71:                                   71
    stock    How many cups are there?                               (asks the tool ``count``) 12

Each has a relative that a policy trained on these has not seen, to look for transfer (``env=exercises_transfer``):

    first    first of lemon, river, stone, horse:                   lemon
    lower    RIVER in small letters:                                river
    where    Anna lives in Paris, Ben in Rome. Where does Ben live? Rome
    subtract 9 - 4 =                                                5
    smaller  smaller of 34 and 71:                                  34
    cost     What does one cup cost?                                (asks the tool ``price``) 12

The examples are the same for every task of a kind, so that an engine's prefix cache holds them. Scores besides
``outcome`` (the answer, and nothing else): ``form``, whether the last message has the form of an answer at all (a
number, one of the words, capitals), and ``lenient``, whether the right answer is the last of its kind in it. A gain in
outcome that is not one in form is more than having learned to be brief.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from typing import Any

from envs.environment import Environment, ToolError, tool
from envs.taskset import Split, Taskset
from envs.types import Episode, Message, Task, ToolCall
from envs.words import ADJECTIVES, CITIES, FIRST_NAMES, LAST_NAMES

_NOUNS = (
    "apple bread chair dance eagle flame grape house juice lemon mouse night ocean paper queen river "
    "stone table voice water zebra horse bridge candle button garden hammer jacket kettle ladder market "
    "needle orange pencil rabbit saddle ticket violin window basket carpet dragon engine feather guitar "
    "helmet island jungle magnet"
)
NOUNS: tuple[str, ...] = tuple(_NOUNS.split())
WORDS: tuple[str, ...] = (*NOUNS, *(word.lower() for word in (*FIRST_NAMES, *LAST_NAMES, *ADJECTIVES)))
TOOLS = {"stock": "count", "cost": "price"}  # what answers these kinds
SYSTEM = "Answer with the answer alone."


def _last(r: random.Random) -> tuple[str, str, Sequence[str]]:
    words = r.sample(NOUNS, 4)
    return f"last of {', '.join(words)}:", words[-1], words


def _first(r: random.Random) -> tuple[str, str, Sequence[str]]:
    words = r.sample(NOUNS, 4)
    return f"first of {', '.join(words)}:", words[0], words


def _upper(r: random.Random) -> tuple[str, str, Sequence[str]]:
    word = r.choice(WORDS)
    return f"{word} in capitals:", word.upper(), ()


def _lower(r: random.Random) -> tuple[str, str, Sequence[str]]:
    word = r.choice(WORDS)
    return f"{word.upper()} in small letters:", word, ()


def _who(r: random.Random) -> tuple[str, str, Sequence[str]]:
    facts, names, cities, asked = _homes(r)
    return f"{facts} Who lives in {cities[asked]}?", names[asked], names


def _where(r: random.Random) -> tuple[str, str, Sequence[str]]:
    facts, names, cities, asked = _homes(r)
    return f"{facts} Where does {names[asked]} live?", cities[asked], cities


def _homes(r: random.Random) -> tuple[str, Sequence[str], Sequence[str], int]:
    names, cities = r.sample(FIRST_NAMES, 2), r.sample(CITIES, 2)
    return f"{names[0]} lives in {cities[0]}, {names[1]} in {cities[1]}.", names, cities, r.randrange(2)


def _add(r: random.Random) -> tuple[str, str, Sequence[str]]:
    a, b = r.randint(1, 20), r.randint(1, 9)
    return f"{a} + {b} =", str(a + b), ()


def _subtract(r: random.Random) -> tuple[str, str, Sequence[str]]:
    a, b = r.randint(1, 20), r.randint(1, 9)
    return f"{a + b} - {b} =", str(a), ()


def _larger(r: random.Random) -> tuple[str, str, Sequence[str]]:
    a, b = r.sample(range(10, 100), 2)
    return f"larger of {a} and {b}:", str(max(a, b)), ()


def _smaller(r: random.Random) -> tuple[str, str, Sequence[str]]:
    a, b = r.sample(range(10, 100), 2)
    return f"smaller of {a} and {b}:", str(min(a, b)), ()


def _stock(r: random.Random) -> tuple[str, str, Sequence[str]]:
    thing, count = r.choice(WORDS), r.randint(2, 99)
    return f"How many of {thing} are there?", str(count), (thing,)


def _cost(r: random.Random) -> tuple[str, str, Sequence[str]]:
    thing, cost = r.choice(WORDS), r.randint(2, 99)
    return f"What does one {thing} cost?", str(cost), (thing,)


# kind -> (question, answer, words it is about) of a random stream
KINDS: dict[str, Callable[[random.Random], tuple[str, str, Sequence[str]]]] = {
    "last": _last,
    "upper": _upper,
    "who": _who,
    "add": _add,
    "larger": _larger,
    "stock": _stock,
    "first": _first,
    "lower": _lower,
    "where": _where,
    "subtract": _subtract,
    "smaller": _smaller,
    "cost": _cost,
}


class ExerciseEnvironment(Environment):
    """One question. ``stock`` has the tool ``count``, ``cost`` the tool ``price``; the answer is in no prompt."""

    def __init__(self, task: Task, **config: Any) -> None:
        super().__init__(task, **config)
        self.needed = TOOLS.get(task.metadata["kind"])
        self.tools = {name: value for name, value in self.tools.items() if name == self.needed}

    @tool
    def count(self, thing: str) -> str:
        """How many of a thing are there."""
        return self._look_up(thing)

    @tool
    def price(self, thing: str) -> str:
        """What one of a thing costs."""
        return self._look_up(thing)

    def _look_up(self, thing: str) -> str:
        if thing.strip().lower() != self.task.metadata["words"][0]:
            raise ToolError(f"no {thing} is known.")
        return str(self.task.answer)

    def score(self, episode: Episode) -> dict[str, float]:
        answer = episode.answer or ""
        asked = self.needed is None or any(m.tool_calls for m in episode.sampled)
        right, formed, lenient = compare(answer, str(self.task.answer), self.task.metadata)
        return {"outcome": float(right and asked), "form": float(formed and asked), "lenient": float(lenient and asked)}

    def oracle(self, history: Sequence[Message]) -> Message:
        if self.needed is not None and history[-1].role != "tool":
            return Message("assistant", tool_calls=(ToolCall(self.needed, {"thing": self.task.metadata["words"][0]}),))
        return Message("assistant", str(self.task.answer))


def compare(answer: str, gold: str, about: Any) -> tuple[bool, bool, bool]:
    """(right, has the form of an answer, right answer is the last of its kind) of a message."""
    said = answer.strip()
    if gold.isdigit():
        found = re.findall(r"\d+", said)
        return said == gold, re.fullmatch(r"\d+", said) is not None, bool(found) and found[-1] == gold
    if gold.isupper():
        found = re.findall(r"[A-Z]+", said)
        return said == gold, re.fullmatch(r"[A-Z]+", said) is not None, bool(found) and found[-1] == gold
    if not about["words"]:  # small letters, of any word
        found = re.findall(r"\b[a-z]+\b", said)
        return said == gold, re.fullmatch(r"[a-z]+", said) is not None, bool(found) and found[-1] == gold
    found = [word for word in re.findall(r"\w+", said) if word in about["words"]]
    return said == gold, said in about["words"], bool(found) and found[-1] == gold


class ExerciseTaskset(Taskset):
    """``kind``: one of ``KINDS``; ``shots``: worked examples in the prompt; ``name``: of the family in metrics."""

    family = "exercise"
    env_class = ExerciseEnvironment
    max_turns = 2

    def __init__(
        self,
        split: Split = "train",
        seed: int = 0,
        size: int | None = None,
        *,
        kind: str = "last",
        shots: int = 2,
        name: str | None = None,
        **config: Any,
    ) -> None:
        super().__init__(split, seed, size, **config)
        if kind not in KINDS:
            raise ValueError(f"kind={kind!r}: must be one of {', '.join(KINDS)}")
        if shots < 0:
            raise ValueError(f"shots={shots}: must be 0 or more")
        self.kind, self.shots = kind, shots
        self.family = name or kind
        self.examples: tuple[Message, ...] = ()
        for number in range(shots):
            question, answer, words = KINDS[kind](random.Random(f"example {kind} {number}"))
            self.examples += (Message("user", question),)
            if kind in TOOLS:
                call = ToolCall(TOOLS[kind], {"thing": words[0]})
                self.examples += (Message("assistant", tool_calls=(call,)), Message("tool", answer))
            self.examples += (Message("assistant", answer),)

    def task(self, index: int) -> Task:
        key, (question, answer, words) = self.draw(index, self._propose)
        prompt = (Message("system", SYSTEM), *self.examples, Message("user", question))
        about = {"key": key, "kind": self.kind, "words": list(words)}
        return Task(self.task_id(index), self.family, prompt, answer, about)

    def _propose(self, rng: random.Random) -> tuple[str, tuple[str, str, Sequence[str]]]:
        found = KINDS[self.kind](rng)
        return f"{self.kind} {found[0]}", found
