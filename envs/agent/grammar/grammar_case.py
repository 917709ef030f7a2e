"""GrammarCase: a task of the grammar as a ``Case``: environment, tools, solution and verifier.

    case = GrammarCase(task.metadata)

Its data are made again from the numbers in the metadata, so a task is small on disk.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from envs.agent.general.case import SUBMIT, Call, Case, World, submit_tool
from envs.agent.general.solution import SolutionError
from envs.agent.general.world import Database, WorldSpec
from envs.agent.grammar.brief import Brief
from envs.agent.grammar.conditions import quoted
from envs.agent.grammar.court import Court
from envs.agent.grammar.draft import draft
from envs.agent.grammar.facts import Facts
from envs.agent.grammar.naming import naming_of
from envs.agent.grammar.operations import Operation, operations
from envs.agent.grammar.solver import Unsolved, solve
from envs.agent.grammar.structure import Structure, structure_of
from envs.agent.grammar.tool_bodies import Desk
from envs.agent.grammar.wording import law
from envs.environment import ToolError

RECIPE = 1  # a change that makes other data of the same numbers raises it


@lru_cache(maxsize=256)
def drafted(number: int, seed: str, goal: str, wishes: int, noise: int) -> tuple[Brief, WorldSpec]:
    """The brief and the rows of a task. Raises Unsuitable."""
    return draft(structure_of(number), random.Random(f"plot {number} {seed}"), goal, wishes, noise)


@lru_cache(maxsize=1024)
def offered_by(number: int) -> dict[str, Operation]:
    return operations(structure_of(number))


class GrammarWorld(World):
    """One episode's database, and the tools over it."""

    def __init__(self, case: GrammarCase) -> None:
        self._case = case
        self._database = Database(case.start)
        self._desk = Desk(self._database, naming_of(case.structure), case.refuse, law(case.structure))

    def call(self, name: str, arguments: Mapping[str, Any]) -> Any:
        if name == SUBMIT:
            self.submitted = arguments["result"]
            return "submitted"
        return self._case.by_name[name].call(self._desk, arguments)

    def state(self) -> WorldSpec:
        return self._database.spec()

    def close(self) -> None:
        self._database.close()


class GrammarCase(Case):
    solution = ""  # no source text: ``solver.solve``

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        if metadata["recipe"] != RECIPE:
            raise ValueError(
                f"the task was made by recipe {metadata['recipe']}, this version has recipe {RECIPE}: build it again"
            )
        number = metadata["number"]
        self.structure: Structure = structure_of(number)
        self.brief, self.start = drafted(
            number, metadata["plot"], metadata["goal"], metadata["wishes"], metadata["noise"]
        )
        self.offered = offered_by(number)
        self.by_name = {operation.name: operation for operation in self.offered.values()}
        self.tools = {name: operation.tool for name, operation in self.by_name.items()}
        self.changing = frozenset({o.name for o in self.by_name.values() if o.changes} | {SUBMIT})
        self.answer_wanted = self.brief.goal in ("pick", "plan", "tally")
        if self.answer_wanted:
            kind = "integer" if self.brief.goal == "tally" else "object"
            self.tools[SUBMIT] = submit_tool(kind, "Submit the result and finish.")
        self.court = Court(self.structure, self.brief, self.start)

    def open(self) -> GrammarWorld:
        return GrammarWorld(self)

    def facts(self, call: Call) -> Facts:
        return Facts(self.structure, self.offered, call, self.brief.today)

    def execute(self, call: Call) -> None:
        try:
            answer = solve(self.structure, self.brief, self.facts(call))
        except (Unsolved, LookupError) as error:
            raise SolutionError(f"{type(error).__name__}: {error}") from error
        if self.answer_wanted:
            call(SUBMIT, {"result": answer})

    def judge(self, end: WorldSpec, submitted: Any) -> str | None:
        if self.answer_wanted and submitted is None:
            return "nothing was submitted"
        return self.court.judge(end, submitted)

    def refuse(self, database: Database, wanted: Mapping[str, Any]) -> str | None:
        """The house rule, among those that the tool knows, which a new record would break."""
        values = {"day": quoted(wanted["day"]), "quantity": str(wanted["quantity"]), "own": "-1",
                  "total": str(wanted["total"]), "today": quoted(self.brief.today)}  # fmt: skip
        for rule in self.structure.enforced:
            sql = (
                f"SELECT ({rule.sql()}) AS holds FROM item i JOIN grp g ON g.name = i.grp JOIN client c "
                f"WHERE i.id = {wanted['item']} AND c.id = {wanted['client']}"
            )
            for name, value in values.items():
                sql = sql.replace(f"{{{name}}}", value)
            found = database.one(sql)
            if found is None:
                raise ToolError("there is no such item or client.")
            if not found["holds"]:
                return rule.text(self.structure.domain)
        return None
