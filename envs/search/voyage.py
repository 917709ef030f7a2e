"""The voyage family: a chain of look-ups, one record each, long enough to overflow a context window.

    What is the color of the last city by ship from "city 472"?
        search -> The ship of "city 472" is "city 318".
        search -> The ship of "city 318" is "city 630".
        search -> The ship of "city 630" is "none". The color of "city 630" is "red".
        "red"

The ship of a city leads to the next one, so nothing can be looked up ahead, and a run is as long as the voyage:
``hops`` ships lie between the question and the answer. The road of a city leads away: from there ships go on forever
and never back. The policy has to learn to follow the one right thread, to answer at its end and not before.
``pages=True`` is the harder tier: a search gives all that is known of a city, ``facts`` idle sentences among it.
``goal="count"`` has voyages without an end: the question says how many ships to take, which the policy has to keep
count of (the oracle does so in its reasoning). ``questions=2`` asks again after the first answer.

The tasks are what a context policy (``rollout.context``) is for: with ``rollout.max_context`` below the length of a
run, the policy must go on from what a summary or the last records tell, or begin again.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

from envs.environment import Environment, ToolError, tool
from envs.final_answer import normalise
from envs.taskset import Split, Taskset
from envs.types import Episode, Message, StepResult, Task, ToolCall
from envs.words import CITIES, COLORS, INSTRUMENTS, JOBS, Naming

Goal = Literal["end", "count"]

SYSTEM = "Answer with the search tool."
QUESTIONS: dict[str, str] = {
    "end": 'What is the color of the last city by ship from "{name}"?',
    "count": 'What is the color of the city {hops} ships from "{name}"?',
}
# "numbers": ten digits, which the shipped base copies. "words": sixteen cities, which it does not after a short cold
# start (it has seen them as answers only).
NAMES: dict[str, tuple[str, ...]] = {"numbers": tuple(f"city {n}" for n in range(100, 1000)), "words": CITIES}
MAX_HOPS = 12
_LANDLOCKED = 2  # cities, at least, that are in no voyage: where the roads lead

_FILLERS: dict[str, tuple[str, ...]] = {
    "job": JOBS,
    "instrument": INSTRUMENTS,
    "year": tuple(str(year) for year in range(1900, 2000)),
}
_FACT = re.compile(r'The (\w+) of "([^"]*)" is "([^"]*)"\.')
NO_SHIP = "none"
_QUOTED = re.compile(r'"([^"]*)"')
_COUNT = re.compile(r"(\d+) times\.")
_LAST = re.compile(r'The last city is "([^"]*)"\.')
_ANSWER = re.compile(r'The answer is "([^"]*)"\.')


class VoyageEnvironment(Environment):
    """One voyage (or one after the other). ``pages``: a search gives the whole page of a city, not the one fact.

    ``facts``: sentences of a page that nobody asks for, 0 to 3.
    """

    def __init__(self, task: Task, pages: bool = False, facts: int = 2, **config: Any) -> None:
        super().__init__(task, **config)
        if not 0 <= facts <= len(_FILLERS):
            raise ValueError(f"facts is {facts}, must be between 0 and {len(_FILLERS)}")
        self.pages, self.facts = pages, facts
        self._names = NAMES[task.metadata["names"]]
        self._ships: dict[str, str | None] = {}  # from every city of a voyage; None: no ship
        for voyage in task.metadata["voyages"]:
            self._ships |= dict(zip(voyage["cities"], [*voyage["cities"][1:], voyage["then"]], strict=True))
        self._answered: list[str] = []

    @tool
    def search(self, query: str) -> str:
        """Search the records."""
        named = [name for name in self._names if name in query and re.search(rf"\b{name}\b", query)]
        if not named:
            raise ToolError(f'nothing found; name a city, as in "{self._names[0]}".')
        city = min(named, key=query.index)
        lines = self.page(city)
        if self.pages:
            return "\n".join(lines)
        asked = set(re.findall(r"\w+", query))
        for line in lines:
            if line.split()[1] in asked:
                ended = line.endswith(f'"{NO_SHIP}".')  # who asks for a ship that does not sail is told the color
                return "\n".join([line, *(each for each in lines if ended and each.split()[1] == "color")])
        raise ToolError(f'nothing found; name what you want to know, as in "ship of {city}".')

    def page(self, city: str) -> list[str]:
        """Everything about one city, a sentence a line, the same each time, in an order of its own."""
        rng = random.Random(f"record {self.task.metadata['key']}/{city}")
        inland = [name for name in self._names if name not in self._ships and name != city]
        to = self._ships.get(city, rng.choice(inland))
        facts = {"ship": to or NO_SHIP, "road": rng.choice(inland), "color": color(self.task.metadata["key"], city)}
        facts |= {name: rng.choice(values) for name, values in rng.sample(sorted(_FILLERS.items()), self.facts)}
        lines = [f'The {name} of "{city}" is "{value}".' for name, value in facts.items()]
        rng.shuffle(lines)
        return lines

    def step(self, action: Message) -> StepResult:
        if action.parse_error is not None or action.tool_calls:
            return super().step(action)
        self._answered.append(action.content)
        voyages = self.task.metadata["voyages"]
        if len(self._answered) == len(voyages):
            return StepResult(terminated=True, info={"counts": {}})
        return StepResult((Message("user", voyages[len(self._answered)]["question"]),), info={"counts": {}})

    def score(self, episode: Episode) -> dict[str, float]:
        """``outcome``: every question answered right; ``answers``: the share of them."""
        wanted = [voyage["answer"] for voyage in self.task.metadata["voyages"]]
        right = sum(
            normalise(given) == normalise(answer) for given, answer in zip(self._answered, wanted, strict=False)
        )
        return {"outcome": float(right == len(wanted)), "answers": right / len(wanted)}

    # -- demonstrators: the last record, or else the last message of the user, says where the run is -----------------

    def oracle(self, history: Sequence[Message]) -> Message:
        return self._move(history, self._where(history))

    def novice(self, history: Sequence[Message], rng: random.Random) -> Message:
        """Takes the road, asks for the color (or answers) before the end, loses count, or does what the oracle does."""
        record = self._where(history)
        dice = rng.random()
        if "ship" in record and record["ship"] != NO_SHIP:
            if dice < 0.05:
                left = self._left(record, history)
                return _search("ship", record["road"], left) if self.pages else _search("road", record["city"], left)
            if dice < 0.09:
                return _answer(record["color"]) if self.pages else _search("color", record["ship"])
        if dice < 0.13 and "ship" in record and (left := self._left(record, history)) is not None:
            return self._move(history, record | {"left": str(left + rng.choice((-1, 1)))})
        return self.oracle(history)

    def summarise(self, history: Sequence[Message]) -> Message:
        """Where to go on, which city is the last, or the answer if it is known."""
        move = self._move(history, self._where(history))
        if not move.tool_calls:
            return Message("assistant", f"The answer is {move.content}.", reasoning="I sum up.")
        query = str(move.tool_calls[0].arguments["query"])
        (name,) = _QUOTED.findall(query)
        if query.startswith("color"):
            return Message("assistant", f'The last city is "{name}".', reasoning="I sum up.")
        count = _COUNT.search(move.reasoning or "")
        left = f" {count.group(0)}" if count else ""
        return Message("assistant", f'Go on from "{name}"{left or "."}', reasoning="I sum up.")

    def _move(self, history: Sequence[Message], record: Mapping[str, str]) -> Message:
        if "answer" in record:
            return _answer(record["answer"])
        if "last" in record:
            return _search("color", record["last"])
        left = self._left(record, history)
        if self.pages:
            if "ship" not in record:
                return _search("ship", record["city"], left)
            if record["ship"] == NO_SHIP or (left is not None and left < 0):
                return _answer(record["color"])
            return _search("ship", record["ship"], left)
        if "color" in record:
            return _answer(record["color"])
        city = record.get("ship") or record.get("road") or record["city"]
        return _search("color", city) if left is not None and left <= 0 else _search("ship", city, left)

    def _where(self, history: Sequence[Message]) -> dict[str, str]:
        """The last record that was read since the last question, or where the question says to begin."""
        for message in reversed(history):
            if message.role == "tool" and (facts := _FACT.findall(message.content)):
                return {"city": facts[0][1]} | {name: value for name, _, value in facts}
            if message.role == "user":
                if known := _ANSWER.search(message.content):
                    return {"answer": known.group(1)}
                if last := _LAST.search(message.content):
                    return {"last": last.group(1)}
                count = _COUNT.search(message.content)
                city = _QUOTED.findall(message.content)[-1]
                return {"city": city} | ({"left": count.group(1)} if count else {})
        raise ValueError(f"task {self.task.id}: the history has no message of the user")

    def _left(self, record: Mapping[str, str], history: Sequence[Message]) -> int | None:
        """Ships still to take from the city that is looked up next; below 0: none, the answer is due.

        None where the voyage has an end. By the task where the city is on the way, else by the last count.
        """
        if self.task.metadata["goal"] == "end":
            return None
        if "left" in record:
            return int(record["left"])
        asked = min(sum(m.role == "user" for m in history), len(self.task.metadata["voyages"])) - 1
        cities: list[str] = self.task.metadata["voyages"][max(asked, 0)]["cities"]
        if record["city"] in cities:
            return len(cities) - 1 - cities.index(record["city"]) - int("ship" in record)
        counts = [c for m in history if m.role == "assistant" and (c := _COUNT.search(m.reasoning or ""))]
        return int(counts[-1].group(1)) - 1 if counts else 0


class VoyageTaskset(Taskset):
    """Voyages of ``min_hops`` to ``max_hops`` (1 to 12) ships.

    ``goal``: "end" (to the last city) or "count" (so many ships). ``questions``: one after the other. ``names``: what
    cities are called, "numbers" (``city 472``) or "words" (``Oslo``).
    """

    family = "voyage"
    env_class = VoyageEnvironment

    def __init__(
        self,
        split: Split = "train",
        seed: int = 0,
        size: int | None = None,
        min_hops: int = 2,
        max_hops: int = 8,
        goal: Goal = "end",
        questions: int = 1,
        names: Naming = "numbers",
        **config: Any,
    ) -> None:
        super().__init__(split, seed, size, **config)
        if not 1 <= min_hops <= max_hops <= MAX_HOPS:
            raise ValueError(
                f"min_hops={min_hops}, max_hops={max_hops}: must be 1 <= min_hops <= max_hops <= {MAX_HOPS}"
            )
        if goal not in get_args(Goal):
            raise ValueError(f"goal is {goal!r}, must be one of {', '.join(get_args(Goal))}")
        if names not in NAMES:
            raise ValueError(f"names is {names!r}, must be one of {', '.join(NAMES)}")
        room = (len(NAMES[names]) - _LANDLOCKED) // (max_hops + 2)
        if not 1 <= questions <= room:
            raise ValueError(
                f"questions is {questions}, must be between 1 and {room}: with names={names!r} there are "
                f"{len(NAMES[names])} cities, and a voyage may need {max_hops + 2}"
            )
        self.min_hops, self.max_hops, self.goal = min_hops, max_hops, goal
        self.questions, self.names = questions, names
        if self.max_turns is None:
            self.max_turns = 2 * questions * (max_hops + 2)

    def task(self, index: int) -> Task:
        key, voyages = self.draw(index, self._propose)
        for voyage in voyages:
            voyage["answer"] = color(key, voyage["cities"][-1])
        return Task(
            id=self.task_id(index),
            family=self.family,
            prompt=(Message("system", SYSTEM), Message("user", voyages[0]["question"])),
            answer=voyages[-1]["answer"],
            metadata={
                "key": key,
                "goal": self.goal,
                "names": self.names,
                "hops": sum(len(voyage["cities"]) - 1 for voyage in voyages),
                "voyages": voyages,
            },
            seed=self.seed,
        )

    def _propose(self, rng: random.Random) -> tuple[str, list[dict[str, Any]]]:
        """Voyages that share no city; one that is counted goes on behind the city that is asked for."""
        hops = [rng.randint(self.min_hops, self.max_hops) for _ in range(self.questions)]
        names = rng.sample(NAMES[self.names], sum(hops) + 2 * len(hops))
        voyages: list[dict[str, Any]] = []
        for n in hops:
            cities, after = names[: n + 1], names[n + 1]
            names = names[n + 2 :]
            question = QUESTIONS[self.goal].format(name=cities[0], hops=n)
            then = after if self.goal == "count" else None
            voyages.append({"question": question, "cities": cities, "then": then})
        return ", ".join("-".join(voyage["cities"]) for voyage in voyages), voyages


def color(key: str, city: str) -> str:
    """The color of a city, in the task with this key."""
    return random.Random(f"color {key}/{city}").choice(COLORS)


def _search(attribute: str, name: str, left: int | None = None) -> Message:
    call = ToolCall("search", {"query": f'{attribute} of "{name}"'})
    count = "" if left is None else f" {left} times"
    return Message("assistant", reasoning=f"I search the {attribute}{count}.", tool_calls=(call,))


def _answer(value: str) -> Message:
    return Message("assistant", f'"{value}"', reasoning="I found the answer.")
