"""Brief: what a task asks for, as data. The request says it in words; solver and verifier are both told this."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from envs.agent.general.world import Row
from envs.agent.grammar.conditions import Condition, Pick
from envs.agent.grammar.plot import Plot
from envs.agent.grammar.structure import Structure
from envs.agent.grammar.wishes import Wish


class Unsuitable(Exception):
    """This environment has no such task; one word says why."""


class Another(Condition):
    """The item of the record that is to be moved is out of the question."""

    kind = "another"

    def __init__(self, item: int) -> None:
        self.item = item

    def sql(self) -> str:
        return f"i.id <> {self.item}"

    def holds(self, facts: Any, pick: Pick) -> bool:
        return bool(pick.item["id"] != self.item)

    def spoil(self, plot: Plot, item: Row) -> None:
        raise NotImplementedError


@dataclass(frozen=True)
class Brief:
    """``objective``: (price or a number's column, least or most). ``own``: the record to move, and its item."""

    goal: str
    client: str
    day: str
    quantity: int
    today: str
    wishes: tuple[Wish, ...] = ()
    objective: tuple[str, str] = ("price", "least")
    count: int = 1
    own: tuple[int, int] | None = None

    @property
    def own_id(self) -> int:
        return self.own[0] if self.own else -1


def constraints_of(structure: Structure, brief: Brief) -> tuple[Condition, ...]:
    """All that a candidate must meet: the house rules, the wishes, and what the goal adds."""
    added = (Another(brief.own[1]),) if brief.own else ()
    return (*structure.rules, *brief.wishes, *added)


def as_json(brief: Brief) -> dict[str, Any]:
    """The brief as plain data: what makes two tasks the same, together with the rows."""
    return {**vars(brief), "wishes": [[wish.kind, wish.value] for wish in brief.wishes]}
