"""Why a case is not worth keeping: its solution fails, or answers that know nothing pass.

The weak answerers repeat the calls of the solution that change something, with other values. One takes at random,
the other the first of everything: where the solution says ``hotel="Silver Harbor"``, a hotel is put that stands in
the same column. So a wrong answer has the right form, and only the constraints can tell.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

from envs.agent.general.case import Case, Step, run_solution
from envs.agent.general.solution import SolutionError, check_source
from envs.agent.general.world import WorldSpec
from envs.environment import ToolError
from envs.tools import check_arguments

RANDOM_ANSWERS = 5
Columns = list[list[Any]]


def reject_reason(case: Case) -> str | None:
    """None for a case to keep, else one word."""
    try:
        check_source(case.solution, list(case.tools))
    except SolutionError:
        return "solution_not_allowed"
    world = case.open()
    try:
        steps = run_solution(case, world)
        if case.judge(world.state(), world.submitted) is not None:
            return "solution_fails"
    except SolutionError:
        return "solution_raises"
    finally:
        world.close()
    return "too_easy" if weak_answer(case, steps) else None


def weak_answer(case: Case, steps: list[Step]) -> str | None:
    """The name of a weak answerer that passes, None when all fail."""
    columns = _columns(case.start)
    if _passes(case, []):
        return "empty"
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
            except ToolError:
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
