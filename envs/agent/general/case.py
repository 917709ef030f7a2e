"""Case: <environment, tools, task, verifier> and the solution, whoever made them.

    case = ProgramCase(task.metadata)
    world = case.open()
    run_solution(case, world)                         # the reference solution, through the tools
    case.judge(world.state(), world.submitted)        # None: solved; else what is wrong

``ProgramCase`` belongs to this package and runs in this process; ``stored.StoredCase`` was written by a language
model and runs in the sandbox.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from envs.agent.general.category import Brief, Category, ToolSpec
from envs.agent.general.solution import SolutionError, ToolProxy, assemble, run_trusted
from envs.agent.general.world import Database, WorldSpec
from envs.environment import ToolError
from envs.tools import Tool, check_arguments

RECIPE = 1  # of the programs that make worlds; a change that makes other worlds of the same numbers raises it
MAX_CALLS = 400
SUBMIT = "submit_result"
Call = Callable[[str, dict[str, Any]], Any]


@dataclass(frozen=True)
class Step:
    """One call of a solution, and what came back."""

    name: str
    arguments: dict[str, Any]
    value: Any


class World(ABC):
    """An opened environment: one episode's own."""

    submitted: Any = None

    @abstractmethod
    def call(self, name: str, arguments: Mapping[str, Any]) -> Any:
        """Run a tool whose arguments have been checked. Raises ToolError with what the policy is to read."""

    @abstractmethod
    def state(self) -> WorldSpec:
        """All rows as they are now."""

    @abstractmethod
    def close(self) -> None: ...


class Case(ABC):
    """``tools`` by name, as the policy sees them; ``changing`` are those that change something, or submit."""

    start: WorldSpec
    tools: dict[str, Tool]
    changing: frozenset[str]
    answer_wanted: bool
    solution: str

    @abstractmethod
    def open(self) -> World: ...

    @abstractmethod
    def execute(self, call: Call) -> None:
        """Run the solution; each of its calls goes through ``call``. Raises SolutionError."""

    @abstractmethod
    def judge(self, end: WorldSpec, submitted: Any) -> str | None:
        """None when the task is done, else the first thing that is wrong."""


def run_solution(case: Case, world: World) -> list[Step]:
    """Run the reference solution in ``world``; returns its calls. Raises SolutionError."""
    steps: list[Step] = []

    def call(name: str, arguments: dict[str, Any]) -> Any:
        known = case.tools.get(name)
        if known is None:
            raise SolutionError(f"there is no tool {name}")
        if problem := check_arguments(known.schema, arguments):
            raise SolutionError(problem)
        if len(steps) >= MAX_CALLS:
            raise SolutionError(f"more than {MAX_CALLS} calls")
        try:
            value = world.call(name, arguments)
        except ToolError as error:
            raise SolutionError(f"{name} refused: {error}") from None
        steps.append(Step(name, arguments, value))
        return value

    case.execute(call)
    return steps


def submit_tool(kind: str, text: str) -> Tool:
    parameters = {"type": "object", "properties": {"result": {"type": kind}}, "required": ["result"]}
    return Tool(SUBMIT, "", {"name": SUBMIT, "description": text, "parameters": parameters})


class ProgramWorld(World):
    """Tools of this package over an SQLite database in memory."""

    def __init__(self, start: WorldSpec, tools: Mapping[str, ToolSpec]) -> None:
        self._database, self._tools = Database(start), tools

    def call(self, name: str, arguments: Mapping[str, Any]) -> Any:
        if name == SUBMIT:
            self.submitted = arguments["result"]
            return "submitted"
        return self._tools[name].run(self._database, **arguments)

    def state(self) -> WorldSpec:
        return self._database.spec()

    def close(self) -> None:
        self._database.close()


@lru_cache(maxsize=64)
def _world(category: str, seed: int) -> tuple[WorldSpec, tuple[ToolSpec, ...]]:
    return category_named(category).world(seed)


def category_named(name: str) -> Category:
    from envs.agent.general.categories import CATEGORIES

    if name not in CATEGORIES:
        raise ValueError(f"no category {name!r}; there are {', '.join(CATEGORIES)}")
    return CATEGORIES[name]


class ProgramCase(Case):
    """Rebuilt from a task's metadata: category, number of the world, template and needs."""

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        if metadata["recipe"] != RECIPE:
            raise ValueError(
                f"the task was made by recipe {metadata['recipe']}, this version has recipe {RECIPE}: build it again"
            )
        category = category_named(metadata["category"])
        self._template = category.template(metadata["template"])
        self.need: dict[str, Any] = metadata["need"]
        self.start, offered = _world(category.name, metadata["world"])
        self._specs = {spec.name: spec for spec in offered}
        self.tools = {spec.name: spec.schema_for(self.start) for spec in offered}
        self.changing = frozenset({spec.name for spec in offered if spec.changes} | {SUBMIT})
        self.answer_wanted = self._template.answer is not None
        if self._template.answer is not None:
            kind, _ = self._template.answer
            names = {list: "array", dict: "object", str: "string", int: "integer"}
            self.tools[SUBMIT] = submit_tool(names[kind], "Submit the result and finish.")
        # a solution is told what the prompt says in words: the needs, and the rules of the world
        told = {name: value for name, value in self.need.items() if name not in self._template.hidden}
        self.solution = assemble(self._template.solve, {**self.start.rules, **told})

    def open(self) -> ProgramWorld:
        return ProgramWorld(self.start, self._specs)

    def execute(self, call: Call) -> None:
        parameters = {name: list(tool.schema["parameters"]["properties"]) for name, tool in self.tools.items()}
        try:
            run_trusted(self.solution, ToolProxy(call, parameters))
        except SolutionError:
            raise
        except Exception as error:
            raise SolutionError(f"{type(error).__name__}: {error}") from error

    def judge(self, end: WorldSpec, submitted: Any) -> str | None:
        if self.answer_wanted and submitted is None:
            return "nothing was submitted"
        try:
            return next(self._template.check(self.start, end, submitted, self.need), None)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            return f"the answer is not of the form that was asked for ({type(error).__name__}: {error})"


def propose(category: Category, seed: int, template_name: str, level: int, rng: Any) -> Brief:
    """A task in world number ``seed``. Raises Unsuitable."""
    brief = Brief(level)
    category.template(template_name).propose(_world(category.name, seed)[0], rng, brief)
    return brief
