"""The lineage family: a chain of look-ups, one record each, long enough to overflow a context window.

    What is the birthplace of the first teacher before "person 472"?
        search -> The doctor of "person 472" is "person 555". … The teacher of "person 472" is "person 318".
        search -> …                                             The teacher of "person 318" is "person 630".
        search -> … The teacher of "person 630" is "nobody". The birthplace of "person 630" is "Oslo".
        "Oslo"

Each record gives the name of the next one, so nothing can be looked up ahead, and the whole run has as many calls as
the line has people: ``hops`` of them lie between the question and the answer. A record also names somebody who leads
away (the doctor): from there teachers follow on teachers and never end. What is to be learnt is to follow the one
right thread, to answer at its end and not before. ``goal="count"`` has lines without an end: the question says how
many teachers to go back, which the policy has to keep count of (the oracle does so in its reasoning).
``questions=2`` asks again after the first answer.

The tasks are what a context policy (``rollout.context``) is for: with ``rollout.max_context`` below the length of a
run, the policy must go on from what a summary or the last records tell, or begin again.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

from envs.environment import Environment, ToolError, normalise, tool
from envs.taskset import Split, Taskset
from envs.types import Episode, Message, StepResult, Task, ToolCall
from envs.words import CITIES, COLORS, FIRST_NUMBER, INSTRUMENTS, JOBS, LAST_NUMBER

Goal = Literal["end", "count"]

SYSTEM = "Answer with the search tool."
NOBODY = "nobody"
QUESTIONS: dict[str, str] = {
    "end": 'What is the birthplace of the first teacher before "{name}"?',
    "count": 'What is the birthplace of teacher {hops} before "{name}"?',
}
MAX_HOPS = 12

_FILLERS: dict[str, tuple[str, ...]] = {
    "job": tuple(job for job in JOBS if job not in ("teacher", "doctor")),
    "instrument": INSTRUMENTS,
    "color": COLORS,
    "city": CITIES,
}
_NAME = re.compile(r"\bperson (\d{3})\b")
_FACT = re.compile(r'The (\w+) of "([^"]*)" is "([^"]*)"\.')
_COUNT = re.compile(r"(\d+) more\.")
_ANSWER = re.compile(r'The answer is "([^"]*)"\.')


class LineageEnvironment(Environment):
    """One line of teachers (or one after the other). ``facts``: sentences of a record that nobody asks for, 0 to 4."""

    def __init__(self, task: Task, facts: int = 2, **config: Any) -> None:
        super().__init__(task, **config)
        if not 0 <= facts <= len(_FILLERS):
            raise ValueError(f"facts is {facts}, must be between 0 and {len(_FILLERS)}")
        self.facts = facts
        self._teachers: dict[int, int | None] = {}  # of everybody in a line; None: nobody
        for line in task.metadata["lines"]:
            self._teachers |= dict(zip(line["people"], [*line["people"][1:], line["then"]], strict=True))
        self._answered: list[str] = []

    @tool
    def search(self, query: str) -> str:
        """Search the records."""
        found = _NAME.search(query)
        if found is None or not FIRST_NUMBER <= int(found.group(1)) <= LAST_NUMBER:
            raise ToolError('nothing found; name a person, as in "person 123".')
        return self.record(int(found.group(1)))

    def record(self, number: int) -> str:
        """Everything about one person, the same each time, in an order of its own."""
        rng = random.Random(f"record {self.task.metadata['key']}/{number}")
        strangers = [n for n in range(FIRST_NUMBER, LAST_NUMBER + 1) if n not in self._teachers and n != number]
        teacher = self._teachers.get(number, rng.choice(strangers))
        facts = {
            "teacher": NOBODY if teacher is None else f"person {teacher}",
            "doctor": f"person {rng.choice(strangers)}",
            "birthplace": self._birthplace(number),
        }
        facts |= {name: rng.choice(values) for name, values in rng.sample(sorted(_FILLERS.items()), self.facts)}
        lines = [f'The {name} of "person {number}" is "{value}".' for name, value in facts.items()]
        rng.shuffle(lines)
        return "\n".join(lines)

    def step(self, action: Message) -> StepResult:
        if action.parse_error is not None or action.tool_calls:
            return super().step(action)
        self._answered.append(action.content)
        lines = self.task.metadata["lines"]
        if len(self._answered) == len(lines):
            return StepResult(terminated=True, info={"counts": {}})
        return StepResult((Message("user", lines[len(self._answered)]["question"]),), info={"counts": {}})

    def score(self, episode: Episode) -> dict[str, float]:
        """``outcome``: every question answered right; ``answers``: the share of them."""
        wanted = [line["answer"] for line in self.task.metadata["lines"]]
        right = sum(
            normalise(given) == normalise(answer) for given, answer in zip(self._answered, wanted, strict=False)
        )
        return {"outcome": float(right == len(wanted)), "answers": right / len(wanted)}

    def _birthplace(self, number: int) -> str:
        return birthplace(self.task.metadata["key"], number)

    # -- demonstrators: the last record, or else the last message of the user, says where the run is -----------------

    def oracle(self, history: Sequence[Message]) -> Message:
        return self._move(history, self._where(history))

    def novice(self, history: Sequence[Message], rng: random.Random) -> Message:
        """Follows the doctor, answers before the end, loses count, or does what the oracle does."""
        record = self._where(history)
        dice = rng.random()
        if "teacher" in record:
            if dice < 0.05:
                return _search(record["doctor"], self._left(record, history))
            if dice < 0.09:
                return _answer(record["birthplace"])
        if dice < 0.13 and (left := self._left(record, history)) is not None:
            return self._move(history, record | {"left": str(left + rng.choice((-1, 1)))})
        return self.oracle(history)

    def summarise(self, history: Sequence[Message]) -> Message:
        """Where to go on, or the answer if it is known."""
        move = self._move(history, self._where(history))
        if not move.tool_calls:
            return Message("assistant", f"The answer is {move.content}.", reasoning="I sum up.")
        name = _NAME.search(str(move.tool_calls[0].arguments["query"]))
        assert name is not None
        count = _COUNT.search(move.reasoning or "")
        left = f" {count.group(0)}" if count else ""
        return Message("assistant", f'Go on with "{name.group(0)}".{left}', reasoning="I sum up.")

    def _move(self, history: Sequence[Message], record: Mapping[str, str]) -> Message:
        if "answer" in record:
            return _answer(record["answer"])
        left = self._left(record, history)
        if "teacher" not in record:
            return _search(record["name"], left)
        if record["teacher"] == NOBODY or (left is not None and left < 0):
            return _answer(record["birthplace"])
        return _search(record["teacher"], left)

    def _where(self, history: Sequence[Message]) -> dict[str, str]:
        """The last record that was read since the last question, or where the question says to begin."""
        for message in reversed(history):
            if message.role == "tool" and (facts := _FACT.findall(message.content)):
                return {"name": facts[0][1]} | {attribute: value for attribute, _, value in facts}
            if message.role == "user":
                if known := _ANSWER.search(message.content):
                    return {"answer": known.group(1)}
                count = _COUNT.search(message.content)
                name = _NAME.findall(message.content)[-1]
                return {"name": f"person {name}"} | ({"left": count.group(1)} if count else {})
        raise ValueError(f"task {self.task.id}: the history has no message of the user")

    def _left(self, record: Mapping[str, str], history: Sequence[Message]) -> int | None:
        """Teachers still to go back from the person that is looked up next; below 0: nobody, the answer is due.

        None where the line has an end. By the task where the person is in the line, else by the last count.
        """
        if self.task.metadata["goal"] == "end":
            return None
        if "left" in record:
            return int(record["left"])
        asked = min(sum(m.role == "user" for m in history), len(self.task.metadata["lines"])) - 1
        people = self.task.metadata["lines"][max(asked, 0)]["people"]
        number, steps = int(record["name"].split()[-1]), int("teacher" in record)
        if number in people:
            return len(people) - 1 - people.index(number) - steps
        counts = [c for m in history if m.role == "assistant" and (c := _COUNT.search(m.reasoning or ""))]
        return int(counts[-1].group(1)) - 1 if counts else 0


class LineageTaskset(Taskset):
    """Lines of teachers. ``min_hops`` to ``max_hops`` (1 to 12) teachers lie between the question and the answer.

    ``goal``: "end" (to the first teacher) or "count" (so many teachers back). ``questions``: one after the other.
    """

    family = "lineage"
    env_class = LineageEnvironment

    def __init__(
        self,
        split: Split = "train",
        seed: int = 0,
        size: int | None = None,
        min_hops: int = 2,
        max_hops: int = 8,
        goal: Goal = "end",
        questions: int = 1,
        **config: Any,
    ) -> None:
        super().__init__(split, seed, size, **config)
        if not 1 <= min_hops <= max_hops <= MAX_HOPS:
            raise ValueError(
                f"min_hops={min_hops}, max_hops={max_hops}: must be 1 <= min_hops <= max_hops <= {MAX_HOPS}"
            )
        if goal not in get_args(Goal):
            raise ValueError(f"goal is {goal!r}, must be one of {', '.join(get_args(Goal))}")
        if questions < 1:
            raise ValueError(f"questions is {questions}, must be at least 1")
        self.min_hops, self.max_hops, self.goal, self.questions = min_hops, max_hops, goal, questions

    def task(self, index: int) -> Task:
        key, lines = self.draw(index, self._propose)
        for line in lines:
            line["answer"] = birthplace(key, line["people"][-1])
        return Task(
            id=self.task_id(index),
            family=self.family,
            prompt=(Message("system", SYSTEM), Message("user", lines[0]["question"])),
            answer=lines[-1]["answer"],
            metadata={"key": key, "goal": self.goal, "hops": sum(len(x["people"]) - 1 for x in lines), "lines": lines},
            seed=self.seed,
        )

    def _propose(self, rng: random.Random) -> tuple[str, list[dict[str, Any]]]:
        """Lines of different people; a line that is counted goes on behind the one who is asked for."""
        hops = [rng.randint(self.min_hops, self.max_hops) for _ in range(self.questions)]
        numbers = rng.sample(range(FIRST_NUMBER, LAST_NUMBER + 1), sum(hops) + 2 * len(hops))
        lines: list[dict[str, Any]] = []
        for n in hops:
            people, after = numbers[: n + 1], numbers[n + 1]
            numbers = numbers[n + 2 :]
            question = QUESTIONS[self.goal].format(name=f"person {people[0]}", hops=n)
            lines.append({"question": question, "people": people, "then": after if self.goal == "count" else None})
        return " ".join("-".join(map(str, line["people"])) for line in lines), lines


def birthplace(key: str, number: int) -> str:
    """Where a person was born, in the task with this key."""
    return random.Random(f"born {key}/{number}").choice(CITIES)


def _search(name: str, left: int | None) -> Message:
    call = ToolCall("search", {"query": f'teacher of "{name}"'})
    count = "" if left is None else f" {left} more."
    return Message("assistant", reasoning=f"I search the teacher.{count}", tool_calls=(call,))


def _answer(value: str) -> Message:
    return Message("assistant", f'"{value}"', reasoning="I found the answer.")
