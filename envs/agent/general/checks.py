"""Why a case is not worth keeping: its solution fails, or answers that know nothing pass.

The weak answerers repeat the calls of the solution that change something, with other values. One takes at random,
the other the first of everything: where the solution says ``hotel="Silver Harbor"``, another value of
the same column takes its place. So a wrong answer has the right form, and only the constraints can tell.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

from envs.agent.general.case import SUBMIT, Case, Step, run_solution
from envs.agent.general.solution import SolutionError, check_source
from envs.agent.general.world import WorldSpec
from envs.environment import ToolError
from envs.tools import check_arguments

RANDOM_ANSWERS = 5
Columns = list[list[Any]]
_HOLLOW = {"array": [], "object": {}, "string": "", "integer": 0, "number": 0, "boolean": False}
_WEAK = {
    "nothing": "an episode in which nothing was done",
    "hollow": "an empty result",
    "first": "the first value of every column",
    "random": "random values",
}


def reject_reason(case: Case) -> str | None:
    """None for a case to keep, else one word."""
    problem = find_problem(case)
    return problem[0] if problem else None


def find_problem(case: Case) -> tuple[str, str] | None:
    """(one word, details for who wrote the case), None for a case to keep."""
    try:
        check_source(case.solution, list(case.tools))
    except SolutionError as error:
        return "solution_not_allowed", str(error)
    world = case.open()
    try:
        steps = run_solution(case, world)
        verdict = case.judge(world.state(), world.submitted)
    except SolutionError as error:
        return "solution_raises", str(error)
    finally:
        world.close()
    if verdict is not None:
        return "solution_fails", verdict
    if who := weak_answer(case, steps):
        return "too_easy", f"the verifier accepts {_WEAK[who]}"
    return None


def weak_answer(case: Case, steps: list[Step]) -> str | None:
    """The name of a weak answerer that passes, None when all fail."""
    columns = _columns(case.start)
    if _passes(case, []):
        return "nothing"
    if case.answer_wanted:
        kind = case.tools[SUBMIT].schema["parameters"]["properties"]["result"]["type"]
        if _passes(case, [(SUBMIT, {"result": _HOLLOW[kind]})]):
            return "hollow"
    acts = [step for step in steps if step.name in case.changing]
    if _passes(case, _replaced(acts, columns, lambda values: values[0])):
        return "first"
    for number in range(RANDOM_ANSWERS):
        rng = random.Random(f"weak {number}")
        if _passes(case, _replaced(acts, columns, rng.choice)):
            return "random"
    return None


def _passes(case: Case, acts: list[tuple[str, dict[str, Any]]]) -> bool:
    world = case.open()
    try:
        for name, arguments in acts:
            if check_arguments(case.tools[name].schema, arguments):
                continue
            try:
                world.call(name, arguments)
            except (ToolError, TimeoutError):
                continue
        return case.judge(world.state(), world.submitted) is None
    finally:
        world.close()


def _columns(world: WorldSpec) -> Columns:
    """The different values of each column, in order of appearance; columns of one value say nothing."""
    found = []
    for table, columns in world.schema.items():
        for column in columns:
            values = list(dict.fromkeys(row[column] for row in world.rows[table]))
            if len(values) > 1:
                found.append(values)
    return found


def _replaced(acts: list[Step], columns: Columns, pick: Callable[[list[Any]], Any]) -> list[tuple[str, dict[str, Any]]]:
    return [(step.name, _other(step.arguments, columns, pick)) for step in acts]


def _other(value: Any, columns: Columns, pick: Callable[[list[Any]], Any]) -> Any:
    if isinstance(value, Mapping):
        return {key: _other(item, columns, pick) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_other(item, columns, pick) for item in value]
    for values in columns:
        if any(type(known) is type(value) and known == value for known in values):
            return pick(values)
    # a number that was worked out must not be given away
    return value + 1 if isinstance(value, int | float) and not isinstance(value, bool) else value
